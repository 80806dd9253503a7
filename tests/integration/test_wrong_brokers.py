"""A broker that is not there, is none, or lets nobody in: one clear line and the exit code, or patience."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.brokers import MISSING, Mosquitto, make_password_file, settings_without_subscriptions
from tests.federations import Site
from tests.processes import Child
from tests.refusals import BROKER, CONFIGURATION, refusal

needs_mosquitto = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def test_a_broker_that_does_not_run_is_waited_for_and_that_is_said_once(tmp_path: Path, tiny_task: Path) -> None:
    """As at boot, when the device is faster than its network."""
    with Mosquitto(tmp_path) as mosquitto:
        site = Site(tmp_path, mosquitto.url, tiny_task)
        mosquitto.stop()
        expected = (
            f"broker {site.url}: Connection refused; is it running there, and the port right? (trying again until"
        )
        with (
            Child("agent", "--config", site.agent("pi-1")) as agent,
            Child("aggregator", site.federation("run")) as aggregator,
        ):
            for process in (agent, aggregator):
                process.says(expected)
            mosquitto.start()
            agent.says("connected")
            aggregator.says("waiting for 2 agents")
            assert [process.stderr.count("(trying again") for process in (agent, aggregator)] == [1, 1]


def test_nobody_has_to_wait_for_a_broker_that_does_not_run(nowhere: Site) -> None:
    with Child("agent", "--config", nowhere.agent("pi-1")) as agent:
        agent.says("(trying again")
        agent.interrupt()
        assert agent.ends() == 130


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("gateway.local", CONFIGURATION, "broker address 'gateway.local': write mqtt://HOST[:PORT]"),
        ("http://gateway.local", CONFIGURATION, "broker address 'http://gateway.local': write mqtt://HOST[:PORT]"),
        ("mqtt://gateway.local:mqtt", CONFIGURATION, "write mqtt://HOST[:PORT]"),
        ("mqtt://pi:secret@gateway.local", CONFIGURATION, "put the user name in broker.username"),
        ("mqtt://gateway..local", BROKER, "no host can be called so; check the address"),
    ],
)
def test_a_broker_address_that_is_wrong(nowhere: Site, url: str, code: int, said: str) -> None:
    assert said in refusal(code, "agent", "--config", nowhere.agent("pi-1"), "--broker", url)


@contextmanager
def web_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"mqtt://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_something_else_where_the_broker_should_be(nowhere: Site) -> None:
    with web_server() as url:
        said = refusal(BROKER, "agent", "--config", nowhere.agent("pi-1"), "--broker", url)
    assert "is this an MQTT 3.1.1 broker" in said


@needs_mosquitto
def test_a_broker_that_wants_another_password(tmp_path: Path, tiny_task: Path) -> None:
    make_password_file(tmp_path / "passwords", "pi-1", "open sesame")
    (tmp_path / "password").write_text("open barley\n")
    with Mosquitto(tmp_path, "allow_anonymous false", f"password_file {tmp_path / 'passwords'}") as mosquitto:
        site = Site(tmp_path, mosquitto.url, tiny_task)
        anonymous = {"url": mosquitto.url}
        for broker in (anonymous, {**anonymous, "username": "pi-1", "password_file": "password"}):
            said = refusal(BROKER, "agent", "--config", site.agent("pi-1", broker=broker))
            assert said.startswith(f"broker {mosquitto.url}: not authorized; check broker.username, the password and")
        config = site.agent("pi-1", broker={**anonymous, "username": "pi-1"})
        with Child("agent", "--config", config, env={"FEDPRUNE_BROKER_PASSWORD": "open sesame"}) as agent:
            agent.says("connected")


@needs_mosquitto
def test_a_broker_that_lets_nobody_subscribe(tmp_path: Path, tiny_task: Path) -> None:
    with Mosquitto(tmp_path, *settings_without_subscriptions(tmp_path)) as mosquitto:
        site = Site(tmp_path, mosquitto.url, tiny_task)
        for command in (["agent", "--config", site.agent("pi-1")], ["aggregator", site.federation("run")]):
            assert "may not subscribe; check its access list" in refusal(BROKER, *command)
