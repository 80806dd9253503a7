"""What systemd hears of a service: datagrams on a socket of its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedprune.system.service import ServiceManager


class Listener:
    """systemd's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        said = []
        while True:
            try:
                said.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return said

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(str(tmp_path / "notify") if request.param == "path" else f"@fedprune-{tmp_path}")
    yield listener
    listener.close()


def test_it_hears_what_the_service_says(listener: Listener) -> None:
    manager = ServiceManager(listener.address, None)
    manager.ready()
    manager.status("round 3:\ntraining")
    manager.ending()
    assert listener.heard() == ["READY=1", "STATUS=round 3: training", "STOPPING=1"]


def test_signs_of_life_come_no_oftener_than_they_are_wanted_and_waits_are_short_enough_for_them(
    listener: Listener,
) -> None:
    manager = ServiceManager(listener.address, 3600.0)
    for _ in range(5):
        manager.alive()
    assert listener.heard() == ["WATCHDOG=1"]
    assert manager.wait_until(None) == 900.0
    assert manager.wait_until(time.monotonic() + 1e6) == 900.0
    assert manager.wait_until(time.monotonic()) == 0.0


def test_without_a_watchdog_nothing_is_said_of_life_and_waits_are_as_long_as_they_like(listener: Listener) -> None:
    manager = ServiceManager(listener.address, None)
    manager.alive()
    assert listener.heard() == []
    assert manager.wait_until(None) is None


@pytest.mark.parametrize("address", [None, "", "/nowhere/at/all"])
def test_a_manager_that_does_not_hear_is_no_error(address: str | None) -> None:
    manager = ServiceManager(address, 1.0)
    manager.ready()
    manager.alive()
    manager.ending()


_HELD_UP = """
import os, queue, signal, time
from fedprune.system.process import as_service, stopping
with as_service(), stopping(queue.SimpleQueue()):
    os.write(1, b"r")
    time.sleep(3600)  # reads no event
"""

_BUSY_AT_START = """
import os, time
from fedprune.system.process import Terminated, as_service, interruptible
try:
    with interruptible(), as_service():
        os.write(1, b"r")
        time.sleep(3600)
except Terminated:
    pass
"""


_CUT_SHORT = """\
        try:
            time.sleep(3600)
        except BaseException:
            raise ImportError("initialization failed") from None
"""
_IMPORTING = _BUSY_AT_START.replace("        time.sleep(3600)\n", _CUT_SHORT)


@pytest.mark.parametrize(
    "program",
    [_HELD_UP, _BUSY_AT_START, _IMPORTING],
    ids=["in a step that does not end", "before it serves", "in an import"],
)
def test_a_service_that_is_told_to_end_ends_well_whatever_it_does(program: str) -> None:
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        assert service.stdout.read(1) == b"r"
        service.send_signal(signal.SIGTERM)
        assert service.wait() == 0
