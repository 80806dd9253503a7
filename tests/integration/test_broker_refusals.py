"""What an agent and an aggregator say of a broker that does not let them in, or lacks what they need: one line."""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fedprune.errors import BrokerError
from fedprune.wire.broker import Broker, Tls
from fedprune.wire.transport import MqttLink
from tests.brokers import MISSING, OPEN, Mosquitto
from tests.certificates import MISSING as NO_OPENSSL
from tests.certificates import Authority, encrypt
from tests.federations import Site
from tests.links import connected
from tests.patience import PATIENCE_S
from tests.processes import Child, run

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)
needs_openssl = pytest.mark.skipif(bool(NO_OPENSSL), reason=NO_OPENSSL)

CONFIGURATION, BROKER = 3, 6
CONNACK, SUBACK = 0x20, 0x90


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "ours")


def tls_settings(authority: Authority, *more: str, years: tuple[int, int] = (2000, 2099)) -> tuple[str, ...]:
    certificate, key = authority.issue("server", host="IP:127.0.0.1", years=years)
    return (*OPEN, f"cafile {authority.ca}", f"certfile {certificate}", f"keyfile {key}", *more)


def commands(site: Site, broker: dict[str, Any]) -> tuple[list[str | Path], list[str | Path]]:
    """An agent and an aggregator with this `[broker]` table."""
    agent, federation = site.agent("pi-1", broker=broker), site.federation("run", broker=broker)
    return ["agent", "--config", agent], ["aggregator", federation]


def last_line(command: list[str | Path]) -> str:
    """What a command says as it ends for its broker."""
    code, said = run(*command)
    assert code == BROKER, said
    assert "Traceback" not in said
    return said.splitlines()[-1]


# Certificates


@needs_openssl
def test_a_broker_that_wants_a_client_certificate_is_said_to_by_name_of_the_setting(
    tmp_path: Path, tiny_task: Path, authority: Authority
) -> None:
    with Mosquitto(tmp_path, *tls_settings(authority, "require_certificate true")) as mosquitto:
        url = f"mqtts://127.0.0.1:{mosquitto.port}"
        for command in commands(Site(tmp_path, url, tiny_task), {"url": url, "tls": {"ca": str(authority.ca)}}):
            said = last_line(command)
            assert said.startswith(f"fedprune: broker {url}: TLS: it refuses clients without a certificate (")
            assert said.endswith("; set broker.tls.certificate and broker.tls.key")


@needs_openssl
def test_a_client_certificate_that_the_broker_does_not_take_is_named(tmp_path: Path, authority: Authority) -> None:
    certificate, key = Authority(tmp_path / "theirs").issue("pi-1", host="DNS:pi-1")
    with Mosquitto(tmp_path, *tls_settings(authority, "require_certificate true")) as mosquitto:
        tls = Tls(ca=str(authority.ca), certificate=str(certificate), key=str(key))
        broker = Broker(url=f"mqtts://127.0.0.1:{mosquitto.port}", tls=tls)
        assert f"TLS: it does not take {certificate} (TLSV1_ALERT_UNKNOWN_CA)" in refusal(broker)


@needs_openssl
def test_a_key_that_needs_a_password_is_refused_and_nobody_is_asked_for_it(
    tmp_path: Path, tiny_task: Path, authority: Authority
) -> None:
    certificate, key = authority.issue("pi-1", host="DNS:pi-1")
    encrypt(key, "open sesame")
    site, url = Site(tmp_path, "mqtts://127.0.0.1", tiny_task), "mqtts://127.0.0.1"
    for command in commands(site, {"url": url, "tls": {"certificate": str(certificate), "key": str(key)}}):
        code, said = run(*command)
        assert code == CONFIGURATION, said
        assert said.endswith("are these PEM files, and is the key without a password?\n")
        assert "pass phrase" not in said


@needs_openssl
def test_tls_before_1_3_says_the_same_of_a_client_certificate(authority: Authority) -> None:
    certificate, key = authority.issue("old", host="IP:127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca))
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def handshake(connection: socket.socket) -> None:
        with contextlib.suppress(ssl.SSLError):
            context.wrap_socket(connection, server_side=True).close()

    with serving(handshake) as port:
        broker = Broker(url=f"mqtts://127.0.0.1:{port}", tls=Tls(ca=str(authority.ca)))
        assert "set broker.tls.certificate and broker.tls.key" in refusal(broker)


@needs_openssl
def test_a_certificate_that_is_not_yet_valid_is_waited_for_and_the_clock_is_told(
    tmp_path: Path, tiny_task: Path, authority: Authority
) -> None:
    """A Pi without a battery for its clock is in the past until it has found a time server."""
    future = tls_settings(authority, years=(2097, 2099))
    with Mosquitto(tmp_path, *future) as mosquitto:
        url = f"mqtts://127.0.0.1:{mosquitto.port}"
        agent, _ = commands(Site(tmp_path, url, tiny_task), {"url": url, "tls": {"ca": str(authority.ca)}})
        days = [f"{datetime.now(UTC):%Y-%m-%d}"]
        with Child(*agent) as process:
            said = process.says("TLS: its certificate is not yet valid: this device's clock says ")
            days.append(f"{datetime.now(UTC):%Y-%m-%d}")
            assert any(f"clock says {day} " in said for day in days)
            assert "UTC, which is probably wrong; set the clock (trying again" in said
            mosquitto.stop()
            mosquitto.start(*tls_settings(authority))
            process.says("connected")


@needs_openssl
def test_a_certificate_that_has_expired_is_told_with_the_clock_and_waited_for(
    tmp_path: Path, tiny_task: Path, authority: Authority
) -> None:
    """Its owner renews it, or the clock is wrong and is set."""
    with Mosquitto(tmp_path, *tls_settings(authority, years=(2000, 2001))) as mosquitto:
        url = f"mqtts://127.0.0.1:{mosquitto.port}"
        agent, aggregator = commands(Site(tmp_path, url, tiny_task), {"url": url, "tls": {"ca": str(authority.ca)}})
        with Child(*agent) as waiting, Child(*aggregator) as other:
            for process in (waiting, other):
                said = process.says("TLS: its certificate has expired: this device's clock says 2")
                assert " UTC; set the clock if that is wrong, else renew it (trying again until that changes)" in said
            mosquitto.stop()
            mosquitto.start(*tls_settings(authority))
            waiting.says("connected")
            other.says("waiting for")


# Limits


def test_a_broker_without_qos_1_is_said_to_need_it(tmp_path: Path, tiny_task: Path) -> None:
    """Mosquitto hangs up on the agent's will, and says nothing."""
    with Mosquitto(tmp_path, *OPEN, "max_qos 0") as mosquitto:
        agent, aggregator = commands(Site(tmp_path, mosquitto.url, tiny_task), {"url": mosquitto.url})
        assert "does it allow QoS 1, retained messages" in last_line(agent)
        assert "it grants QoS 0 only; it must allow QoS 1" in last_line(aggregator)


def test_a_broker_without_retained_messages_is_said_to_need_them(tmp_path: Path, tiny_task: Path) -> None:
    """Mosquitto hangs up on the agent's will, and again and again on the aggregator's manifest."""
    with Mosquitto(tmp_path, *OPEN, "retain_available false") as mosquitto:
        agent, aggregator = commands(Site(tmp_path, mosquitto.url, tiny_task), {"url": mosquitto.url})
        assert "does it allow QoS 1, retained messages" in last_line(agent)
        with Child(*aggregator) as process:
            said = process.says("ends the connection again and again: ")
            assert "must allow QoS 1, retained messages and packets of " in said
            assert "(of Mosquitto: max_qos, retain_available, max_packet_size)" in said


def test_a_broker_that_has_no_connection_left_is_said_to_need_one_more(tmp_path: Path, tiny_task: Path) -> None:
    with Mosquitto(tmp_path, *OPEN, "max_connections 1") as mosquitto, connected(mosquitto.url, "somebody"):
        for command in commands(Site(tmp_path, mosquitto.url, tiny_task), {"url": mosquitto.url}):
            assert last_line(command).endswith("and one connection more?")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (1, "ended the connection before it let us in; is this an MQTT 3.1.1 broker"),
        (2, "client identifier not valid; it must take client ids of 9 bytes, such as some/name"),
        (3, "server unavailable; it must allow a connection for each agent and one for the aggregator; is it at its"),
        (4, "bad user name or password; check broker.username, the password and the broker's access list"),
        (5, "not authorized; check broker.username, the password and the broker's access list"),
    ],
)
def test_every_refusal_of_mqtt_3_1_1_says_what_is_needed(code: int, said: str) -> None:
    with serving(answering({0x10: bytes((CONNACK, 2, 0, code))})) as port:
        assert said in refusal(Broker(url=f"mqtt://127.0.0.1:{port}"), client_id="some/name")


def test_a_broker_that_grants_less_than_qos_1_is_refused() -> None:
    answers = {0x10: bytes((CONNACK, 2, 0, 0)), 0x82: bytes((SUBACK, 3, 0, 1, 0))}
    with serving(answering(answers)) as port, connected(f"mqtt://127.0.0.1:{port}") as wire:
        wire.link.subscribe("a")
        error = wire.until(BrokerError)
    assert str(error).endswith("it grants QoS 0 only; it must allow QoS 1, retained messages (of Mosquitto: max_qos)")


# Addresses


def test_a_broker_that_listens_on_loopback_only_is_thought_of_when_another_host_refuses(
    tmp_path: Path, tiny_task: Path
) -> None:
    address = own_address()
    with Mosquitto(tmp_path, has_listener=False) as mosquitto:
        site = Site(tmp_path, mosquitto.url, tiny_task)
        hint = "Without a listener line in its configuration Mosquitto 2 can be reached on its own machine only"
        elsewhere, here = (site.agent("pi-1", broker={"url": f"mqtt://{host}"}) for host in (address, "127.0.0.1:1"))
        with Child("agent", "--config", elsewhere, "--broker", f"mqtt://{address}:{mosquitto.port}") as agent:
            assert hint in agent.says("Connection refused; is it running there")
        with Child("agent", "--config", here, "--broker", "mqtt://127.0.0.1:1") as agent:
            assert hint not in agent.says("Connection refused; is it running there")


def own_address() -> str:
    """An address of this machine that is not loopback. No packet is sent for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address: str = probe.getsockname()[0]
        return address


# Servers


def refusal(broker: Broker, client_id: str = "test") -> str:
    """What is said, in one line, when the first connection fails."""
    with pytest.raises(BrokerError) as caught, MqttLink(broker, client_id, queue.SimpleQueue()):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port of loopback where one connection is served."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run_once() -> None:
            connection, _ = listener.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=run_once)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def answering(answers: dict[int, bytes]) -> Callable[[socket.socket], None]:
    """A broker that gives to packets which begin with a byte, if it is alone in what was read, an answer."""

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(ConnectionResetError):
            while packet := connection.recv(1024):
                connection.sendall(answers.get(packet[0], b""))

    return serve
