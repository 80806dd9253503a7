"""The MQTT link against a real Mosquitto, and against what is no broker."""

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

import paho.mqtt.client as paho
import pytest

from fedprune.errors import BrokerError, ConfigurationError
from fedprune.wire import transport
from fedprune.wire.broker import PASSWORD_VARIABLE, Broker, Tls
from fedprune.wire.inbox import MAX_WAITING_BYTES
from fedprune.wire.link import Delivery, Drained, LinkDown, LinkUp
from fedprune.wire.messages import MAX_MESSAGE_BYTES
from fedprune.wire.outbox import MAX_QUEUED_BYTES
from fedprune.wire.packets import MAX_PACKET_BYTES
from fedprune.wire.reconnecting import reconnect_delay
from fedprune.wire.transport import MqttLink
from tests.brokers import (
    MISSING,
    OPEN,
    Mosquitto,
    free_port,
    make_password_file,
    publish_anything,
    settings_without_subscriptions,
)
from tests.certificates import MISSING as NO_OPENSSL
from tests.certificates import Authority
from tests.links import connected
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def refusal(broker: Broker | str) -> str:
    """What is said, in one line, when the first connection fails."""
    where = Broker(url=broker) if isinstance(broker, str) else broker
    with pytest.raises(BrokerError) as caught, MqttLink(where, "test", queue.SimpleQueue()):
        pass
    line = str(caught.value)
    assert line.startswith(f"broker {where.url}: ")
    assert "\n" not in line
    return line.removeprefix(f"broker {where.url}: ")


# Messages


def test_messages_go_through_in_order(mosquitto: Mosquitto) -> None:
    with connected(mosquitto.url, "reader", "a/#") as reader, connected(mosquitto.url, "writer") as writer:
        for number in range(200):
            assert writer.link.publish("a/b", bytes([number]) * number) == number

        assert [reader.next() for _ in range(200)] == [
            Delivery("a/b", bytes([number]) * number) for number in range(200)
        ]


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


# Refusals


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_an_address_that_can_be_no_host_is_refused(host: str) -> None:
    assert refusal(f"mqtt://{host}") == "no host can be called so; check the address"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mqtt://no-such-host.invalid", "no such host; check the address (trying again until that changes)"),
        ("mqtt://127.0.0.1:{port}", "Connection refused; is it running there, and the port right? (trying again until"),
    ],
)
def test_a_broker_that_cannot_be_reached_is_waited_for(
    url: str, said: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that boots has no network yet. That is said once, and nobody has to wait."""
    tries = []

    def wait(_: float) -> None:
        tries.append(len(caplog.messages))
        if len(tries) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(transport.time, "sleep", wait)
    link = MqttLink(Broker(url=url.format(port=free_port())), "test", queue.SimpleQueue())
    with pytest.raises(KeyboardInterrupt), link:
        pass

    assert tries == [1, 1, 1]
    assert said in caplog.messages[0]


def test_two_clients_with_one_id_are_told_what_ends_their_connections(
    mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedprune.wire.transport.reconnect_delay", lambda _: 0.0)
    with connected(mosquitto.url, "pi-1") as first, connected(mosquitto.url, "pi-1") as second:
        for _ in range(4):
            first.until(LinkUp)
            second.until(LinkUp)

    assert any("does another client take the id pi-1?" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("limit", "size", "retain", "said"),
    [
        ("max_packet_size 20000", 30_000, False, "such as a message of 30000 bytes"),
        ("retain_available false", 10, True, "such as a retained message of 10 bytes"),
    ],
)
def test_a_broker_that_hangs_up_on_a_message_is_told_what_was_under_way(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    size: int,
    retain: bool,
    said: str,
) -> None:
    monkeypatch.setattr("fedprune.wire.transport.reconnect_delay", lambda _: 0.0)
    with Mosquitto(tmp_path, *OPEN, limit) as mosquitto, connected(mosquitto.url, "pi-1") as wire:
        for _ in range(4):
            wire.link.publish("status", bytes(size), retain=retain)
            wire.until(LinkDown)
            wire.until(LinkUp)

    assert any(said in message for message in caplog.messages)


def test_a_password_that_is_changed_is_read_again(tmp_path: Path) -> None:
    passwords, password = tmp_path / "passwords", tmp_path / "password"
    make_password_file(passwords, "pi-1", "first")
    password.write_text("first\n")
    with Mosquitto(tmp_path, "allow_anonymous false", f"password_file {passwords}") as mosquitto:
        broker = Broker(url=mosquitto.url, username="pi-1", password_file=str(password))
        with connected(broker) as wire:
            mosquitto.stop()
            wire.until(LinkDown)
            make_password_file(passwords, "pi-1", "second")
            password.write_text("second\n")
            mosquitto.start()
            wire.until(LinkUp)


@contextmanager
def server(reply: bytes, *, hangs_up: bool) -> Iterator[str]:
    """Something that listens but is no MQTT broker."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(reply)
                with contextlib.suppress(ConnectionResetError):
                    while not hangs_up and connection.recv(1024):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"mqtt://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@pytest.mark.parametrize("hangs_up", [False, True], ids=["stays", "hangs up"])
@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" + b" " * 100,
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\xff" * 100,
        b"",
    ],
    ids=["HTTP", "SSH", "noise", "silence"],
)
def test_what_is_no_broker_is_said_to_be_none(monkeypatch: pytest.MonkeyPatch, reply: bytes, hangs_up: bool) -> None:
    monkeypatch.setattr(transport, "CONNECT_TIMEOUT_S", 0.3)

    with server(reply, hangs_up=hangs_up) as url:
        assert "is this an MQTT 3.1.1 broker" in refusal(url)


def test_a_broker_that_refuses_everybody_is_said_to(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, "allow_anonymous false") as broker:
        assert refusal(broker.url) == "not authorized; check broker.username, the password and the broker's access list"


def test_a_password_opens_the_door_and_a_wrong_one_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_password_file(tmp_path / "passwords", "pi-1", "open sesame")
    (tmp_path / "right").write_text("open sesame\nwhat follows is a comment\n")
    (tmp_path / "wrong").write_text("open barley\n")
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with Mosquitto(tmp_path, "allow_anonymous false", f"password_file {tmp_path / 'passwords'}") as mosquitto:

        def broker(password_file: str | None) -> Broker:
            return Broker(url=mosquitto.url, username="pi-1", password_file=password_file).relative_to(tmp_path)

        with connected(broker("right")):
            pass
        for other in ("wrong", None):
            assert refusal(broker(other)).startswith("not authorized; check broker.username, the password")
        monkeypatch.setenv(PASSWORD_VARIABLE, "open sesame")
        with connected(broker(None)):
            pass


def test_a_broker_that_lets_in_but_not_subscribe_is_an_error(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, *settings_without_subscriptions(tmp_path)) as broker:
        with connected(broker.url, "test", "a") as wire:
            error = wire.until(BrokerError)

        assert (
            str(error) == f"broker {broker.url}: clients without a user name may not subscribe; check its access list"
        )


def test_who_may_not_subscribe_any_more_connects_again_until_it_may(tmp_path: Path) -> None:
    """As in a cluster that chooses a leader: it refuses what it granted before."""
    with Mosquitto(tmp_path) as broker, connected(broker.url, "test", "a") as wire:
        broker.stop()
        wire.until(LinkDown)
        broker.start(*settings_without_subscriptions(tmp_path))
        for _ in range(2):
            wire.until(LinkUp)
            wire.link.subscribe("a")
            wire.until(LinkDown)
        broker.stop()
        broker.start()
        wire.until(LinkUp)
        wire.subscribe("a")
        wire.link.publish("a", b"heard")
        wire.until_topic("a", b"heard")


# TLS


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    if NO_OPENSSL:
        pytest.skip(NO_OPENSSL)
    directory = tmp_path_factory.mktemp("authorities")
    return Authority(directory / "ours"), Authority(directory / "theirs")


def serving(authority: Authority, *more: str) -> tuple[str, ...]:
    certificate, key = authority.issue("server", host="IP:127.0.0.1")
    return ("allow_anonymous true", f"cafile {authority.ca}", f"certfile {certificate}", f"keyfile {key}", *more)


def secure(mosquitto: Mosquitto, *, host: str = "127.0.0.1", **tls: Path) -> Broker:
    return Broker(url=f"mqtts://{host}:{mosquitto.port}", tls=Tls(**{name: str(path) for name, path in tls.items()}))


def test_tls_with_an_authority_of_ones_own(tmp_path: Path, authorities: tuple[Authority, Authority]) -> None:
    ours, theirs = authorities
    with Mosquitto(tmp_path, *serving(ours)) as mosquitto:
        with connected(secure(mosquitto, ca=ours.ca), "test", "a") as wire:
            publish = wire.link.publish
            assert [publish("a", bytes([number]) * MAX_MESSAGE_BYTES) for number in range(100)]
            for number in range(100):
                assert wire.until(Delivery).payload == bytes([number]) * MAX_MESSAGE_BYTES
        for wrong in (secure(mosquitto, ca=theirs.ca), secure(mosquitto)):
            assert "TLS: " in refusal(wrong)
            assert "check broker.tls" in refusal(wrong)
        assert "Hostname mismatch" in refusal(secure(mosquitto, host="localhost", ca=ours.ca))
        assert "does it want mqtts://" in refusal(mosquitto.url)


def test_tls_where_the_broker_speaks_none(mosquitto: Mosquitto) -> None:
    assert "does it want mqtt://, and is the port right?" in refusal(secure(mosquitto))


def test_clients_can_be_known_by_their_certificates(tmp_path: Path, authorities: tuple[Authority, Authority]) -> None:
    ours, theirs = authorities
    certificate, key = ours.issue("pi-1", host="DNS:pi-1")
    stranger, strangers_key = theirs.issue("pi-1", host="DNS:pi-1")
    with Mosquitto(tmp_path, *serving(ours, "require_certificate true")) as mosquitto:
        with connected(secure(mosquitto, ca=ours.ca, certificate=certificate, key=key)):
            pass
        refusal(secure(mosquitto, ca=ours.ca))
        refusal(secure(mosquitto, ca=ours.ca, certificate=stranger, key=strangers_key))


def test_pem_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "noise.pem").write_bytes(b"noise")
    for tls in (
        Tls(ca="missing.pem"),
        Tls(certificate="missing.pem"),
        Tls(ca="noise.pem"),
        Tls(certificate="noise.pem"),
    ):
        broker = Broker(url="mqtts://127.0.0.1", tls=tls).relative_to(tmp_path)
        with pytest.raises(
            ConfigurationError,
            match=r"broker\.tls: .*(missing\.pem: there is no such file|are these PEM files, and is the key without)",
        ):
            MqttLink(broker, "test", queue.SimpleQueue())


# Losing the broker, and finding it again


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


def test_waiting_never_ends_in_an_overflow() -> None:
    """A night without a broker is more than a thousand attempts."""
    for attempt in (0, 1, 5, 100, 10**6):
        assert 0.0 <= reconnect_delay(attempt) <= 60.0
    assert max(reconnect_delay(0) for _ in range(100)) <= 0.5


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
