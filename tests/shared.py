"""What all processes of one test run share: pytest-xdist's workers take it from whoever made it first."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Path]) -> Path:
    """The path that `make` returned, whichever process called it. `make` is given a directory for it."""
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    made = root / f"{name}.made"
    with locked(root / f"{name}.lock"):
        if not made.exists():
            directory = root / f"shared-{name}"
            directory.mkdir(exist_ok=True)
            made.write_text(str(make(directory)))
    return Path(made.read_text())


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Meanwhile every other process that asks for the same lock waits."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
