"""The long-lived processes as systemd's services: what it hears of them, and that they end well whenever it asks."""

from __future__ import annotations

import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedprune.model.randomness import Keyed
from tests.brokers import MISSING, Mosquitto
from tests.federations import Site
from tests.processes import PATIENCE_S, Child, run
from tests.secured import SecuredGateway

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

_WATCHDOG_US = "400000"
_MOMENTS = 50


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


@contextmanager
def units(tmp_path: Path, task: Path) -> Iterator[dict[str, tuple[str | Path, ...]]]:
    """What the units of device and gateway start, and an aggregator by itself, by their names: with a broker and data,
    and a federation in the queue that goes on for long."""
    gateway = SecuredGateway.made(tmp_path / "gateway")
    site = Site(tmp_path, f"mqtts://127.0.0.1:{gateway.broker_port}", task)
    site.agent("pi-1")
    tls = {"ca": "ca.pem", "certificate": "aggregator.pem", "key": "aggregator.key"}
    broker = {"url": site.url, "tls": {name: str(gateway.path / file) for name, file in tls.items()}}
    rounds = {"count": 10_000, "cohort": 1, "deadline_s": 300.0, "gather_s": 300.0}
    federation = site.federation("run", broker=broker, rounds=rounds, gateway=str(gateway.path))
    assert run("gateway", "queue", "add", "--dir", gateway.path, "--config", federation)[0] == 0
    with gateway.broker():
        with gateway.endpoint():
            code, said = run("join", gateway.enrol("pi-1"), "--dir", tmp_path / "pi-1", "--data", tmp_path / "pi-1.npz")
            assert code == 0, said
        config = tmp_path / "pi-1" / "agent.toml"
        config.write_text(f'trainer = "litert"\n{config.read_text()}')
        yield {
            "agent": ("agent", "--config", config),
            "aggregator": ("aggregator", federation),
            "gateway": ("gateway", "run", "--dir", gateway.path),
        }


def catches_sigterm(pid: int) -> bool:
    """False while the interpreter starts: then the signal ends the process, which systemd takes for a clean end."""
    (caught,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


_MANY = pytest.mark.slow


@pytest.mark.parametrize(
    ("stopped", "moments"),
    [
        ("gateway", 1),
        pytest.param("agent", _MOMENTS, marks=_MANY),
        pytest.param("aggregator", _MOMENTS, marks=_MANY),
        pytest.param("gateway", _MOMENTS, marks=_MANY),
    ],
)
def test_they_end_well_at_any_moment_from_their_start_on(
    tmp_path: Path, tiny_task: Path, stopped: str, moments: int
) -> None:
    """While they start, load LiteRT, train or merge, transfer and write."""
    manager = Manager(tmp_path / "manager.socket")
    reports, where = ("round 3", "stderr") if stopped == "agent" else ("round     3/", "stdout")
    took = []
    with units(tmp_path, tiny_task) as commands:
        other = "aggregator" if stopped == "agent" else "agent"
        with Child(*commands[other]):
            began = time.monotonic()
            with Child(*commands[stopped], env=manager.environment) as process:
                process.says(reports, where)
                spread = time.monotonic() - began
                process.interrupt(signal.SIGTERM)
                assert process.ends() == 0
            for delay in Keyed(1, "moments").uniform(moments, 0.0, spread):
                with Child(*commands[stopped], env=manager.environment) as process:
                    time.sleep(float(delay))  # the moment is what is tried: no event marks it
                    fine = {0} if catches_sigterm(process.pid) else {0, -signal.SIGTERM}
                    began = time.monotonic()
                    process.interrupt(signal.SIGTERM)
                    took.append(time.monotonic() - began)
                    assert process.ends() in fine, f"after {delay:.2f} s: {process.stderr[-2000:]}"
                    assert "Traceback" not in process.stderr
    print(f"{stopped}: {moments} stops within {spread:.1f} s of a start took {min(took):.2f} to {max(took):.2f} s")
