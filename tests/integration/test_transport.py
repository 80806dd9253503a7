"""The MQTT link against a real Mosquitto: messages, and queues that stay bounded."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading

import paho.mqtt.client as paho
import pytest

from fedprune.wire import transport
from fedprune.wire.inbox import MAX_WAITING_BYTES
from fedprune.wire.link import Delivery, Drained, LinkDown, LinkUp
from fedprune.wire.messages import MAX_MESSAGE_BYTES
from fedprune.wire.outbox import MAX_QUEUED_BYTES
from fedprune.wire.packets import MAX_PACKET_BYTES
from tests.brokers import (
    MISSING,
    Mosquitto,
    publish_anything,
)
from tests.links import connected
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


# Messages


def test_messages_go_through_in_order(mosquitto: Mosquitto) -> None:
    with connected(mosquitto.url, "reader", "a/#") as reader, connected(mosquitto.url, "writer") as writer:
        for number in range(200):
            assert writer.link.publish("a/b", bytes([number]) * number) == number

        assert [reader.next() for _ in range(200)] == [
            Delivery("a/b", bytes([number]) * number) for number in range(200)
        ]


def test_many_messages_at_once_come_whole_and_in_order_whatever_their_sizes(mosquitto: Mosquitto) -> None:
    sizes = [(number * 7919) % 300 if number % 40 else 100_000 for number in range(900)]
    with connected(mosquitto.url, "reader", "a/#") as reader, connected(mosquitto.url, "writer") as writer:
        for number, size in enumerate(sizes):
            assert writer.link.publish(f"a/{number}", bytes([number % 256]) * size) == size

        for number, size in enumerate(sizes):
            assert reader.next() == Delivery(f"a/{number}", bytes([number % 256]) * size)


def test_what_is_retained_comes_to_those_who_come_later_until_it_is_cleared(mosquitto: Mosquitto) -> None:
    with connected(mosquitto.url, "writer") as writer:
        writer.link.publish("round", b"manifest", retain=True)
        writer.link.publish("round/not", b"passing by")
        writer.link.drain()
        with connected(mosquitto.url, "early", "round", "round/not") as early:
            assert early.next() == Delivery("round", b"manifest", retained=True)
        writer.link.publish("round", b"", retain=True)
        writer.link.drain()
        with connected(mosquitto.url, "late", "round", "now") as late:
            late.link.publish("now", b"")
            assert late.next() == Delivery("now", b"")


def test_what_is_no_longer_followed_does_not_come(mosquitto: Mosquitto) -> None:
    with connected(mosquitto.url, "reader", "a", "b") as reader:
        reader.link.unsubscribe("a")
        for topic in ("a", "b"):
            reader.link.publish(topic, b"")
        assert reader.next() == Delivery("b", b"")


_READER = """
import queue, sys
from fedprune.system.usage import peak_memory_mb
from fedprune.wire.broker import Broker
from fedprune.wire.link import Delivery, LinkDown
from fedprune.wire.transport import MqttLink
events = queue.SimpleQueue()
with MqttLink(Broker(url=sys.argv[1]), "reader", events) as link:
    before = peak_memory_mb()
    link.subscribe("round")
    link.subscribe("end")
    while True:
        match event := events.get():
            case Delivery("end"):
                break
            case Delivery() | LinkDown():
                sys.exit(f"came: {event}"[:200])
print(peak_memory_mb() - before)
"""


def test_a_retained_message_that_is_too_large_takes_no_memory_and_what_follows_arrives(mosquitto: Mosquitto) -> None:
    """And the link does not go down: it would be sent the message again, for ever."""
    publish_anything(mosquitto, "round", b"x" * 50_000_000, retain=True)
    publish_anything(mosquitto, "end", b"the end", retain=True)

    done = subprocess.run(
        [sys.executable, "-c", _READER, mosquitto.url], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 8.0
    assert done.stderr == f"dropped a message of more than {MAX_PACKET_BYTES} bytes on round\n"


def test_messages_that_are_too_large_do_not_use_up_what_the_broker_sends_at_once(mosquitto: Mosquitto) -> None:
    """Mosquitto sends no more than 20 messages that are not acknowledged."""
    with connected(mosquitto.url, "reader", "#") as reader:
        for number in range(50):
            publish_anything(mosquitto, f"large/{number}", b"x" * (MAX_MESSAGE_BYTES + 1025))
        for size in (MAX_MESSAGE_BYTES, 0):
            publish_anything(mosquitto, "a", b"x" * size)
            assert reader.next() == Delivery("a", b"x" * size)


def test_a_message_that_is_too_large_may_take_longer_than_the_broker_has_to_answer_a_ping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broker that sends slowly, and answers no ping before it is done."""
    monkeypatch.setattr(transport, "KEEPALIVE_S", 1)
    size = MAX_PACKET_BYTES + 1
    pings = 0
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            nonlocal pings
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"\x20\x02\x00\x00")  # CONNACK
                connection.sendall(b"\x30" + bytes((size & 127 | 128, size >> 7 & 127 | 128, size >> 14)) + b"\0\1a")
                connection.settimeout(0.2)
                sent = 3
                while pings < 4:
                    connection.sendall(b"x")
                    sent += 1
                    with contextlib.suppress(TimeoutError):
                        pings += connection.recv(1024).count(b"\xc0\x00")
                connection.sendall(b"x" * (size - sent) + b"\x30\x04\0\1bb")
                connection.settimeout(None)
                connection.recv(1024)

        thread = threading.Thread(target=serve)
        thread.start()
        with connected(f"mqtt://127.0.0.1:{listener.getsockname()[1]}") as wire:
            assert wire.next() == Delivery("b", b"b")
        thread.join(PATIENCE_S)


# Bounded queues, one thread that writes


def test_a_link_says_when_the_broker_has_everything(mosquitto: Mosquitto) -> None:
    with connected(mosquitto.url, "writer") as writer:
        for _ in range(3):
            with mosquitto.held_up():
                for number in range(50):
                    writer.link.publish(f"a/{number}", bytes(100_000))
            assert writer.until(Drained) == Drained()
        writer.link.subscribe("end")
        writer.link.publish("end", b"")
        assert isinstance(writer.until(Delivery), Delivery)


def test_a_broker_that_does_not_keep_up_costs_bounded_memory_and_later_messages_go_through(
    mosquitto: Mosquitto,
) -> None:
    payload = bytes(MAX_MESSAGE_BYTES)
    with connected(mosquitto.url, "writer", "a") as writer:
        with mosquitto.held_up():
            taken = 0
            while writer.link.publish("b", payload):
                taken += len(payload)
                assert taken <= MAX_QUEUED_BYTES
            assert taken > MAX_QUEUED_BYTES - 2 * len(payload)
            assert writer.link.publish("a", payload) == 0
        writer.until(Drained)
        assert writer.link.publish("a", b"again") == 5
        assert writer.until(Delivery) == Delivery("a", b"again")


def test_a_reader_that_does_not_keep_up_leaves_messages_with_the_broker_and_gets_them_in_order(
    mosquitto: Mosquitto,
) -> None:
    size, count = 100_000, 400
    with connected(mosquitto.url, "reader", "a") as reader, connected(mosquitto.url, "writer") as writer:
        for number in range(count):
            while not writer.link.publish("a", number.to_bytes(2, "big") * (size // 2)):
                writer.until(Drained)
        assert reader.waiting * size <= MAX_WAITING_BYTES + 2 * size
        for number in range(count):
            assert reader.next().payload[:2] == number.to_bytes(2, "big")


def test_only_the_network_thread_writes_once_the_link_is_up(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers: list[str] = []
    send = paho.Client._sock_send

    def watched(client: paho.Client, buffer: bytes | bytearray) -> int:
        writers.append(threading.current_thread().name)
        return send(client, buffer)

    with connected(mosquitto.url, "test", "a/#") as wire:
        monkeypatch.setattr(paho.Client, "_sock_send", watched)

        def talk(who: int) -> None:
            for number in range(100):
                wire.link.publish(f"a/{who}", bytes([number]))
                wire.link.subscribe(f"b/{who}/{number}")
                wire.link.unsubscribe(f"b/{who}/{number}")

        threads = [threading.Thread(target=talk, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        came: dict[str, list[int]] = {f"a/{who}": [] for who in range(4)}
        for _ in range(400):
            delivery = wire.next()
            came[delivery.topic].append(delivery.payload[0])
        for thread in threads:
            thread.join()
    assert came == {f"a/{who}": list(range(100)) for who in range(4)}
    assert set(writers) == {"mqtt"}


def test_what_the_broker_did_not_acknowledge_is_not_said_again_over_the_next_connection(mosquitto: Mosquitto) -> None:
    with connected(mosquitto.url) as wire:
        with mosquitto.held_up():
            wire.link.publish("a", b"stale", retain=True)
            mosquitto.stop()
        wire.until(LinkDown)
        mosquitto.start()
        wire.until(LinkUp)
        wire.link.publish("end", b"", retain=True)
        wire.until(Drained)
        for topic in ("a", "end"):
            wire.link.subscribe(topic)
        wire.link.publish("end", b"the end")
        assert wire.until(Delivery) == Delivery("end", b"the end")
