"""The Debian packages, for tests: made once from the same sources, installed by dpkg, and made other versions of."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.chroots import Chroot
from tests.shared import locked

AGENT, GATEWAY = "fedprune-agent", "fedprune-gateway"

_ROOT = Path(__file__).parents[1]
_SOURCES = ("aggregator", "benchmarks", "deploy", "docs", "edge_agent", "export", "fedprune", "requirements")
_FILES = ("CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml")


def built(target: str, cache: Path) -> dict[str, Path]:
    """A target's packages by their names, compressed less than those that are shipped, and so sooner made."""
    directory = cache / f"{target}-{_digest()}"
    with locked(cache / f"{target}.lock"):
        if not directory.exists():
            for old in cache.glob(f"{target}-*"):
                shutil.rmtree(old)
            draft = cache / f"draft-{target}"
            command = [_ROOT / "deploy" / "deb.sh", target, "--compression", "gzip", "--out", draft]
            subprocess.run(command, check=True, stdout=sys.stderr)
            draft.rename(directory)
    return {name: next(directory.glob(f"{name}_*.deb")) for name in (AGENT, GATEWAY)}


def install(system: Chroot, deb: Path, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    (name,) = system.put(deb)
    return system.run("dpkg", "--install", name, check=check)


def version_of(deb: Path, change: Callable[[Path], None], directory: Path, version: str = "9.9.9-1") -> Path:
    """The package as another version of it."""
    unpacked = directory / f"unpacked-{version}"
    directory.mkdir(exist_ok=True)
    subprocess.run(["dpkg-deb", "--raw-extract", deb, unpacked], check=True)
    control = unpacked / "DEBIAN" / "control"
    lines = [
        f"Version: {version}" if line.startswith("Version:") else line for line in control.read_text().splitlines()
    ]
    control.write_text("\n".join(lines) + "\n")
    change(unpacked)
    made = directory / f"{version}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", unpacked, made], check=True)
    return made


def _digest() -> str:
    """Of all that the packages are made of."""
    paths = sorted(path for name in _SOURCES for path in (_ROOT / name).rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in (*paths, *(_ROOT / name for name in _FILES)):
        if "__pycache__" not in path.parts and path.exists():
            digest.update(f"{path.relative_to(_ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
