"""A broker that refuses the MQTT link, or is none: passwords, certificates and access lists."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedprune.errors import BrokerError, ConfigurationError
from fedprune.wire import transport
from fedprune.wire.broker import PASSWORD_VARIABLE, Broker, Tls
from fedprune.wire.link import Delivery, Drained, LinkDown, LinkUp
from fedprune.wire.messages import MAX_MESSAGE_BYTES
from fedprune.wire.reconnecting import Pauses
from fedprune.wire.transport import MqttLink
from tests.brokers import (
    MISSING,
    OPEN,
    Mosquitto,
    allowing_subscriptions,
    free_port,
    make_password_file,
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
    monkeypatch.setattr(Pauses, "next", lambda _: 0.0)
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
    monkeypatch.setattr(Pauses, "next", lambda _: 0.0)
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


def test_what_was_granted_before_and_is_refused_is_asked_for_again_over_the_same_connection(tmp_path: Path) -> None:
    """As in a cluster that chooses a leader: it refuses what it granted before."""
    with (
        Mosquitto(tmp_path) as broker,
        connected(broker.url, "test", "a") as wire,
        connected(broker.url, "owner") as owner,
    ):
        broker.stop()
        for link in (wire, owner):
            link.until(LinkDown)
        broker.start(*settings_without_subscriptions(tmp_path))
        for link in (wire, owner):
            link.until(LinkUp)
        wire.link.subscribe("b")
        wire.link.publish("a", b"the broker has answered what came before")
        wire.until(Drained)
        owner.link.publish("b", b"it was refused", retain=True)
        owner.link.publish(*allowing_subscriptions())

        assert wire.next() == Delivery("b", b"it was refused", retained=True)


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
