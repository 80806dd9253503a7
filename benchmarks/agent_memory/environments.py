"""Environments as a device would have them: what a requirements file pins, and perhaps this tree's wheel.

They are kept: what an environment was made from stands in a file in it. Only the wheel is always installed anew.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedprune.errors import FedpruneError

_ROOT = Path(__file__).parents[2]
_STAMP = "made-from"
_NOT_COUNTED = {"pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils"}


class InstallationError(FedpruneError):
    """An environment could not be made."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    path: Path

    def script(self, name: str) -> Path:
        return self.path / "bin" / name

    @property
    def installed_mb(self) -> float:
        """The sizes of all files in site-packages, but for pip's and setuptools', in MB (10^6 bytes)."""
        (packages,) = self.path.glob("lib/python*/site-packages")
        counted = (entry for entry in packages.iterdir() if entry.name.partition("-")[0] not in _NOT_COUNTED)
        files = (file for entry in counted for file in (entry.rglob("*") if entry.is_dir() else (entry,)))
        return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def build_wheel(directory: Path) -> Path:
    """This tree as it is shipped. Raises `InstallationError`."""
    shutil.rmtree(directory, ignore_errors=True)
    _run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", directory)
    (wheel,) = directory.glob("*.whl")
    return wheel


def make_environment(path: Path, requirements: str, wheel: Path | None) -> Environment:
    """An environment of what `requirements`, a file's name, pins, and a wheel: the one that is there if it is that.

    Raises `InstallationError`.
    """
    pins, stamp = _ROOT / "requirements" / requirements, path / _STAMP
    pip = (sys.executable, "-m", "pip", "--python", path / "bin" / "python", "install", "--quiet", "--no-input")
    made_from = f"{sys.version}\n{hashlib.sha256(pins.read_bytes()).hexdigest()}"
    if not stamp.is_file() or stamp.read_text() != made_from:
        shutil.rmtree(path, ignore_errors=True)
        _run(sys.executable, "-m", "venv", "--without-pip", path)
        _run(*pip, "--require-hashes", "--requirement", pins)
        stamp.write_text(made_from)
    if wheel is not None:
        _run(*pip, "--no-deps", "--force-reinstall", wheel)
    return Environment(path)


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        _words(command), cwd=_ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise InstallationError(f"{' '.join(_words(command)[1:4])}: {said[-1] if said else 'failed'}")


def _words(command: Sequence[str | Path]) -> list[str]:
    return [str(word) for word in command]
