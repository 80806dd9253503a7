"""The recorded federation, made once, and a directory in memory for the states that are made of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import MISSING
from tests.power_cuts.scene import Scene, record
from tests.power_cuts.strace import why_unusable
from tests.shared import made_once

_IN_MEMORY = Path("/dev/shm")
"""There nothing waits for a disk: what is to be durable in a state that is checked is of no interest."""


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory, tiny_task: Path) -> Scene:
    if reason := MISSING or why_unusable():
        pytest.skip(reason)
    return Scene(made_once(tmp_path_factory, "power-cuts", lambda directory: record(directory, tiny_task).path))


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """An empty directory, in memory where the machine has some."""
    parent = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK | os.X_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        yield Path(directory)
