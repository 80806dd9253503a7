"""The MQTT link loses its broker, and finds it again, wherever it is."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedprune.wire import transport
from fedprune.wire.broker import Broker
from fedprune.wire.link import Delivery, LinkDown, LinkUp
from tests.brokers import (
    MISSING,
    Mosquitto,
)
from tests.links import connected
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def test_the_link_comes_back_when_its_broker_does(mosquitto: Mosquitto) -> None:
    with connected(mosquitto.url, "test", "a") as wire:
        for _ in range(2):
            mosquitto.stop()
            wire.until(LinkDown)
            assert wire.link.publish("a", b"into the void") == 0
            mosquitto.start()
            wire.until(LinkUp)
            wire.link.subscribe("a")
            wire.link.publish("a", b"again")
            assert wire.until(Delivery) == Delivery("a", b"again")


def test_a_link_follows_its_broker_to_another_address_and_back(mosquitto: Mosquitto, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with Mosquitto(tmp_path / "other") as other:
        other.stop()
        with connected(Broker(url=mosquitto.url, fallbacks=(other.url,))) as wire:
            for here, there in ((mosquitto, other), (other, mosquitto)):
                assert wire.link.broker == here.url
                here.stop()
                wire.until(LinkDown)
                there.start()
                wire.until(LinkUp)
                wire.subscribe("a")
                wire.link.publish("a", b"again")
                assert wire.until_topic("a") == Delivery("a", b"again")


@pytest.mark.parametrize("is_silent", [False, True], ids=["hangs-up", "silent"])
def test_an_address_where_something_else_answers_keeps_nobody_from_the_broker(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch, is_silent: bool
) -> None:
    monkeypatch.setattr(transport, "CONNECT_TIMEOUT_S", 2.0)
    with _listener(is_silent) as url, connected(Broker(url=url, fallbacks=(mosquitto.url,))) as wire:
        assert wire.link.broker == mosquitto.url
        wire.subscribe("a")
        wire.link.publish("a", b"here")
        assert wire.until_topic("a") == Delivery("a", b"here")


def test_a_broker_that_leaves_a_stranger_at_its_address_is_found_at_the_other(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with (
        Mosquitto(tmp_path / "other") as other,
        connected(Broker(url=mosquitto.url, fallbacks=(other.url,))) as wire,
    ):
        mosquitto.stop()
        with _listener(is_silent=False, port=mosquitto.port):
            wire.until(LinkDown)
            wire.until(LinkUp)
            assert wire.link.broker == other.url
        mosquitto.start()


@contextmanager
def _listener(is_silent: bool, port: int = 0) -> Iterator[str]:
    """The address of something that takes connections, and says nothing, or ends them."""
    with socket.create_server(("127.0.0.1", port)) as server:

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()

        if not is_silent:
            threading.Thread(target=hang_up, daemon=True).start()
        try:
            yield f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # which closing alone does not tell who accepts


def test_a_link_that_waits_for_its_broker_can_be_closed(mosquitto: Mosquitto) -> None:
    with connected(mosquitto.url) as wire:
        mosquitto.stop()
        wire.until(LinkDown)
    assert "mqtt" not in {thread.name for thread in threading.enumerate()}


class _Log(logging.Handler):
    """What is logged, as events to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: queue.SimpleQueue[str] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.put(record.getMessage())


def test_a_broker_that_refuses_for_a_while_is_tried_again(mosquitto: Mosquitto) -> None:
    log = _Log()
    logging.getLogger("fedprune").addHandler(log)
    try:
        with connected(mosquitto.url) as wire:
            mosquitto.stop()
            mosquitto.start("allow_anonymous false")
            while "not authorized" not in log.messages.get(timeout=PATIENCE_S):
                pass
            mosquitto.stop()
            mosquitto.start("allow_anonymous true")
            assert (wire.next(), wire.next()) == (LinkDown("unspecified error"), LinkUp())
    finally:
        logging.getLogger("fedprune").removeHandler(log)


_VICTIM = """
import queue, sys
from fedprune.wire.broker import Broker
from fedprune.wire.transport import MqttLink
events = queue.SimpleQueue()
with MqttLink(Broker(url=sys.argv[1]), "victim", events, will=("status", b"offline")) as link:
    link.publish("status", b"online", retain=True)
    while True:
        events.get()
"""


def test_the_last_will_speaks_for_who_was_killed(mosquitto: Mosquitto) -> None:
    with connected(mosquitto.url, "test", "status") as wire:
        victim = subprocess.Popen([sys.executable, "-c", _VICTIM, mosquitto.url], env={**os.environ})
        assert wire.until(Delivery) == Delivery("status", b"online")
        victim.kill()
        assert wire.until(Delivery) == Delivery("status", b"offline")
        victim.wait(PATIENCE_S)
    with connected(mosquitto.url, "later", "status") as later:
        assert later.next() == Delivery("status", b"offline", retained=True)
