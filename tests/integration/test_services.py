"""The long-lived processes as systemd's services: what it hears of them, and that they end well whenever it asks."""

from __future__ import annotations

import queue
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from fedprune.model.randomness import Keyed
from tests.brokers import MISSING, Mosquitto
from tests.federations import Site
from tests.processes import PATIENCE_S, Child

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

_WATCHDOG_US = "400000"
_MOMENTS = 50
_SPREAD_S = 1.5
"""Signals come so long after a process is ready: it trains, transfers and writes in all of that time."""


class Manager:
    """systemd's end of the socket: it always listens, since the kernel holds few datagrams."""

    def __init__(self, path: Path) -> None:
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        threading.Thread(target=self._listen, daemon=True).start()
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": _WATCHDOG_US}

    def hears(self, text: str) -> None:
        while text not in self._said.get(timeout=PATIENCE_S):
            pass

    def _listen(self) -> None:
        while True:
            self._said.put(self._socket.recv(4096).decode())


def test_systemd_hears_that_they_are_ready_alive_at_work_and_about_to_end(
    tmp_path: Path, mosquitto: Mosquitto, tiny_task: Path
) -> None:
    site = Site(tmp_path, mosquitto.url, tiny_task)
    of_gateway, of_agent = Manager(tmp_path / "gateway.socket"), Manager(tmp_path / "agent.socket")
    one = {"count": 10_000, "cohort": 1, "deadline_s": 300.0, "gather_s": 300.0}
    with Child("aggregator", site.federation("run", rounds=one), env=of_gateway.environment) as aggregator:
        for said in ("READY=1", "WATCHDOG=1", "WATCHDOG=1"):  # it waits for agents meanwhile
            of_gateway.hears(said)
        with Child("agent", "--config", site.agent("pi-1"), env=of_agent.environment) as agent:
            for said in ("READY=1", "STATUS=round 2", "WATCHDOG=1"):
                of_agent.hears(said)
            for process, manager in ((agent, of_agent), (aggregator, of_gateway)):
                process.interrupt(signal.SIGTERM)
                manager.hears("STOPPING=1")
                assert process.ends() == 0


def test_a_service_whose_broker_is_away_is_ready_alive_and_ends_well(tmp_path: Path, tiny_task: Path) -> None:
    site, manager = Site(tmp_path, "mqtt://127.0.0.1:1", tiny_task), Manager(tmp_path / "agent.socket")
    with Child("agent", "--config", site.agent("pi-1"), env=manager.environment) as agent:
        for said in ("READY=1", "WATCHDOG=1"):
            manager.hears(said)
        agent.says("trying again until that changes")
        agent.interrupt(signal.SIGTERM)
        assert agent.ends() == 0


@pytest.mark.slow
@pytest.mark.parametrize("stopped", ["agent", "aggregator"])
def test_they_end_well_at_any_moment_of_training_transfer_and_writing(
    tmp_path: Path, mosquitto: Mosquitto, tiny_task: Path, stopped: str
) -> None:
    site = Site(tmp_path, mosquitto.url, tiny_task)
    one = {"count": 10_000, "cohort": 1, "deadline_s": 300.0, "gather_s": 300.0}
    commands = {
        "aggregator": ("aggregator", site.federation("run", rounds=one)),
        "agent": ("agent", "--config", site.agent("pi-1")),
    }
    other = next(name for name in commands if name != stopped)
    took = []
    with Child(*commands[other]):
        for delay in Keyed(1, "moments").uniform(_MOMENTS, 0.0, _SPREAD_S):
            with Child(*commands[stopped]) as process:
                process.says("round" if stopped == "agent" else "the run of")
                time.sleep(float(delay))  # the moment is what is tried: no event marks it
                began = time.monotonic()
                process.interrupt(signal.SIGTERM)
                took.append(time.monotonic() - began)
                assert process.ends() == 0, process.stderr[-2000:]
    print(f"{stopped}: {_MOMENTS} stops took {min(took):.2f} to {max(took):.2f} s")
