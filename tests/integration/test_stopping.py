"""Both long-lived processes end at once when they are told to, also on a machine that is busy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.brokers import MISSING, Mosquitto
from tests.federations import Site
from tests.processes import Child

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

_BUSY = "while True: pass"


@pytest.fixture
def busy() -> Iterator[None]:
    """As many loops that do nothing but compute as there are processors."""
    with ExitStack() as loops:
        for _ in range(os.cpu_count() or 1):
            loop = loops.enter_context(subprocess.Popen([sys.executable, "-c", _BUSY]))
            loops.callback(loop.kill)
        yield


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_they_end_before_anything_else_would_wake_them(
    tmp_path: Path, mosquitto: Mosquitto, tiny_task: Path, how: signal.Signals
) -> None:
    site = Site(tmp_path, mosquitto.url, tiny_task)
    for _ in range(3):
        with (
            Child("aggregator", site.federation("run")) as aggregator,
            Child("agent", "--config", site.agent("pi-1")) as agent,
        ):
            aggregator.says("waiting for 2 agents")
            agent.says("connected")
            for process in (agent, aggregator):
                process.interrupt(how)
                assert process.ends() == (130 if how is signal.SIGINT else 0), "SIGTERM is no failure"
                assert process.stderr.endswith("fedprune: interrupted\n") == (how is signal.SIGINT)
