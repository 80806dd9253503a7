"""`fedprune broker`: what the protocol needs of a broker, it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fedprune.wire.link import Delivery, LinkDown, LinkUp
from fedprune.wire.messages import MAX_MESSAGE_BYTES
from tests.brokers import free_port
from tests.links import connected
from tests.processes import Child, run


class Embedded:
    """A running `fedprune broker`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.process = self.start()

    def start(self) -> Child:
        child = Child("broker", "--port", str(self.port))
        child.says("listening on", "stdout")
        return child


@pytest.fixture
def broker() -> Iterator[Embedded]:
    embedded = Embedded()
    yield embedded
    embedded.process.__exit__()


def test_messages_of_the_largest_size_go_through(broker: Embedded) -> None:
    with connected(broker.url, "reader", "a/+/c") as reader, connected(broker.url, "writer") as writer:
        for number in range(20):
            writer.link.publish(f"a/{number}/c", bytes([number]) * MAX_MESSAGE_BYTES)
        for number in range(20):
            assert reader.next() == Delivery(f"a/{number}/c", bytes([number]) * MAX_MESSAGE_BYTES)


def test_what_is_retained_comes_later_until_it_is_cleared(broker: Embedded) -> None:
    with connected(broker.url, "writer", "a") as writer:
        writer.link.publish("a", b"manifest", retain=True)
        writer.until(Delivery)
        with connected(broker.url, "early", "a") as early:
            assert early.until(Delivery).payload == b"manifest"
        writer.link.publish("a", b"", retain=True)
        writer.until(Delivery)
        with connected(broker.url, "late", "a", "b") as late:
            late.link.publish("b", b"")
            assert late.until(Delivery).topic == "b"


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


def test_the_last_will_speaks_for_who_was_killed(broker: Embedded) -> None:
    with connected(broker.url, "watcher", "status") as watcher:
        victim = subprocess.Popen([sys.executable, "-c", _VICTIM, broker.url], env={**os.environ})
        watcher.until_topic("status", b"online")
        victim.kill()
        watcher.until_topic("status", b"offline")
        victim.wait()


def test_links_come_back_when_it_does(broker: Embedded) -> None:
    with connected(broker.url, "test") as wire:
        broker.process.kill()
        wire.until(LinkDown)
        broker.process = broker.start()
        wire.until(LinkUp)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_it_ends_when_it_is_told_to_with_links_still_open(broker: Embedded, how: signal.Signals) -> None:
    with connected(broker.url) as wire:
        broker.process.interrupt(how)
        wire.until(LinkDown)
    assert "Traceback" not in broker.process.stderr


def test_a_port_that_is_taken_is_said_to_be(broker: Embedded) -> None:
    code, said = run("broker", "--port", str(broker.port))

    assert code == 6
    (line,) = said.splitlines()
    assert line.startswith(f"fedprune: port {broker.port} on 127.0.0.1 cannot be used")
    assert line.endswith("choose another --port")
