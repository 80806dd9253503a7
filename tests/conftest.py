"""Fixtures for tests with real brokers and real federations."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from benchmarks.agent_memory.environments import build_wheel
from tests.brokers import MISSING, Mosquitto, free_port
from tests.federations import Site, build_task
from tests.shared import made_once

# A machine that is busy makes no test fail: hypothesis would, of an example that takes 0.2 s.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

# As many tests run at a time as there are processors: TensorFlow's threads would only wait for each other.
for operations in ("INTRAOP", "INTEROP"):
    os.environ.setdefault(f"TF_NUM_{operations}_THREADS", "1")

# Hundreds of processes are started: what they import is compiled once, whatever the environment says, and tests too.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, and so have all processes that come of it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running broker that lets everybody in."""
    if MISSING:
        pytest.skip(MISSING)
    directory = tmp_path / "broker"
    directory.mkdir()
    with Mosquitto(directory) as broker:
        yield broker


@pytest.fixture(scope="session")
def tiny_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task bundle whose rounds take a moment."""
    return made_once(tmp_path_factory, "task", lambda directory: build_task(directory, "tiny", 4))


@pytest.fixture
def nowhere(tmp_path: Path, tiny_task: Path) -> Site:
    """A site whose broker does not run."""
    return Site(tmp_path, f"mqtt://127.0.0.1:{free_port()}", tiny_task)


@pytest.fixture
def site(tmp_path: Path, mosquitto: Mosquitto, tiny_task: Path) -> Site:
    """A site with a broker that lets everybody in."""
    return Site(tmp_path, mosquitto.url, tiny_task)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as it is shipped."""
    return made_once(tmp_path_factory, "wheel", build_wheel)
