"""The virtual environment of a package, for a machine that need not be this one: no program of it is run.

An environment is a few files and a link to the system's Python. pip takes the wheels that it would take there, by the
hashes of the lock file.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from deploy.debian.armhf import FROM_DEBIAN, LOCK, REPLACED, compile_msgspec
from deploy.debian.pins import pins
from deploy.debian.targets import Target

_UNUSED = ("tests", "testing/tests")
"""Directories of wheels that only their makers run."""

_PROGRAM = """\
#!{prefix}/bin/python3 -I
import os

{defaults}
from fedprune.command import main

main()
"""


def make_environment(
    target: Target, locks: Iterable[Path], wheel: Path, prefix: str, root: Path, defaults: Mapping[str, str]
) -> Path:
    """Make below `root` an environment that will lie at `prefix`, with the project's `wheel`; its site-packages.

    `defaults` are variables of the environment that the command has there, unless they are set.
    """
    environment = root / prefix.lstrip("/")
    site = environment / "lib" / f"python{target.python}" / "site-packages"
    site.mkdir(parents=True)
    (environment / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = {str(target.is_32_bit).lower()}\nversion = {target.python}\n"
    )
    _install(target, locks, wheel, site)
    _drop_unused(site)
    programs = environment / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(f"/usr/bin/python{target.python}")
    lines = [f"os.environ.setdefault({name!r}, {value!r})" for name, value in defaults.items()]
    program = programs / "fedprune"
    program.write_text(_PROGRAM.format(prefix=prefix, defaults="\n".join(lines)))
    program.chmod(0o755)
    return site


def _install(target: Target, locks: Iterable[Path], wheel: Path, site: Path) -> None:
    wanted = pins(locks, target)
    if target.is_32_bit:
        source = wanted["msgspec"]
        wanted = {name: text for name, text in wanted.items() if name not in {*FROM_DEBIAN, *REPLACED, "msgspec"}}
        wanted |= pins([LOCK], target)
        compile_msgspec(target, source, site)
    with tempfile.TemporaryDirectory() as scratch:
        pinned = Path(scratch, "pins.txt")
        pinned.write_text("\n".join(wanted.values()) + "\n")
        _pip(target, site, "--require-hashes", "--requirement", pinned)
    _pip(target, site, wheel)
    shutil.rmtree(site / "bin", ignore_errors=True)


def _pip(target: Target, site: Path, *what: str | Path) -> None:
    options = ["--target", site, "--no-deps", "--no-compile", "--upgrade", "--only-binary", ":all:"]
    # pip would ask for this machine's Python what it has chosen for another's.
    options += ["--implementation", "cp", "--python-version", target.python, "--ignore-requires-python"]
    for platform in target.platforms:
        options += ["--platform", platform]
    for abi in (target.tag, "abi3", "none"):
        options += ["--abi", abi]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *map(str, [*options, *what])], check=True)


def _drop_unused(site: Path) -> None:
    for name in _UNUSED:
        for found in sorted(site.rglob(name)):
            if found.is_dir():
                shutil.rmtree(found)
