"""Attacks on a gateway and on those who joined it, really tried: `python -m benchmarks.intruders [--json FILE]`

A gateway is made as `fedprune gateway init` makes it, with Mosquitto, `fedprune gateway run`, and an agent that has
joined, each a process of its own. Then come a device that was captured, a stranger on the network, and a broker that
was taken over. Printed is each attack, whether it was refused, and what the victim says. Exits with 1 if one was not.
"""

from __future__ import annotations

import dataclasses
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
import numpy as np

from benchmarks.children import Children, find_mosquitto, free_port
from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from fedprune.data import Dataset, save_npz
from fedprune.errors import FedpruneError
from fedprune.identity.audit import Client
from fedprune.identity.certificates import fingerprint
from fedprune.identity.crossings import cross_all
from fedprune.identity.enrolment import MOST_WRONG, Answer
from fedprune.identity.enrolment_server import EnrolmentServer
from fedprune.identity.gateway import AGGREGATOR, AUTHORITY, CONFIGURATION, Gateway, init_gateway
from fedprune.identity.joining import CERTIFICATE, KEY, join_gateway
from fedprune.identity.revocation import revoke
from fedprune.identity.settings import GatewaySettings
from fedprune.identity.token import FINGERPRINT_BYTES, JoinToken, format_token, new_secret
from fedprune.system.disk import Directory
from fedprune.wire.broker import Broker, Tls
from fedprune.wire.messages import (
    UPDATE_TAG_BYTES,
    WEIGHTS_DIGEST_BYTES,
    Accepted,
    Assignment,
    Content,
    Message,
    Reason,
    Rejected,
    Terms,
    encode,
    kind_of,
)
from fedprune.wire.topics import Topics

_FEDERATION = "intruders"
_HOUR_S = 3600
_HEARD_S = 60.0
"""In which an agent has said what it thinks of a forgery."""


class Attack(msgspec.Struct, frozen=True):
    """`said` is what the victim says, where it says something."""

    tried: str
    refused: bool
    said: str = ""


@click.command(cls=Script)
@json_option("Write the table there.")
def main(target: Path | None) -> None:
    """Attack a gateway, and say what was let pass."""
    with tempfile.TemporaryDirectory() as directory, Children(Path(directory)) as children:
        attacks = list(_attack_all(_Site(Path(directory), children)))
    for attack in attacks:
        click.echo(f"{'refused' if attack.refused else 'PASSED '}  {attack.tried}{attack.said and ': '}{attack.said}")
    write_json(attacks, target)
    settle({f"each of {len(attacks)} attacks is refused": all(attack.refused for attack in attacks)})


class _Site:
    """A gateway whose broker and enrolment endpoint run."""

    def __init__(self, directory: Path, children: Children) -> None:
        self.directory, self.children = directory, children
        self.topics = Topics(_FEDERATION)
        self.gateway = self.make_gateway("gateway", free_port())
        configuration = str(self.gateway.path / CONFIGURATION)
        children.start_command("broker", (find_mosquitto() or "mosquitto", "-c", configuration))
        children.await_port("broker", self.gateway.settings.broker_port)
        children.start("gateway", "gateway", "run", "--dir", str(self.gateway.path))
        children.await_port("gateway", self.gateway.settings.enrolment_port)

    def make_gateway(self, name: str, enrolment_port: int) -> Gateway:
        settings = GatewaySettings(("127.0.0.1",), _FEDERATION, free_port(), enrolment_port)
        return init_gateway(self.directory / name, settings, datetime.now(UTC))

    def token(self, name: str, valid_s: int = _HOUR_S) -> JoinToken:
        """An invitation of the gateway's."""
        certificate, port = self.gateway.authority.certificate, self.gateway.settings.enrolment_port
        token = JoinToken(name, ("127.0.0.1",), port, fingerprint(certificate)[:FINGERPRINT_BYTES], new_secret())
        self.gateway.devices.invite(name, token.secret, int(time.time()) + valid_s)
        return token

    def join(self, token: JoinToken, place: str) -> Path:
        join_gateway(token, Directory(self.directory / place))
        return self.directory / place

    def broker(self, certificate: Path, key: Path) -> Broker:
        tls = Tls(str(self.gateway.path / f"{AUTHORITY}.pem"), str(certificate), str(key))
        return Broker(self.gateway.broker_url, tls=tls)


def _attack_all(site: _Site) -> Iterator[Attack]:
    for crossing in cross_all(site.gateway):
        if not crossing.must_pass:
            yield Attack(crossing.tried, not crossing.passed)
    yield from _forge_messages(site)
    yield from _use_a_revoked_certificate(site)
    yield from _stand_between(site)
    yield from _misuse_tokens(site)


def _refusal(attempt: Callable[..., object], *arguments: object) -> tuple[bool, str]:
    """Whether something is refused, and in which words."""
    try:
        attempt(*arguments)
    except FedpruneError as error:
        return True, str(error)
    return False, ""


def _forge_messages(site: _Site) -> Iterator[Attack]:
    """A broker that was taken over, or whoever may publish anything, speaks to an agent that has joined."""
    agent = _start_agent(site, "victim")
    content = Content(digest=bytes(32), size=1)
    work = Assignment(
        run="run",
        incarnation=1,
        round=0,
        weights_digest=bytes(WEIGHTS_DIGEST_BYTES),
        seconds_left=600,
        model=content,
        terms=Terms(task=content, seed=0, clock_steps=1, codec="mask | int8"),
    )
    forgeries: dict[str, Message] = {
        "an assignment": work,
        "an acceptance": Accepted(round=0, update=bytes(UPDATE_TAG_BYTES)),
        "a rejection": Rejected(reason=Reason.FINISHED),
    }
    gateway = site.gateway.path
    broker = site.broker(gateway / f"{AGGREGATOR}.pem", gateway / f"{AGGREGATOR}.key")
    with Client(broker, site.topics.aggregator_client) as rogue:
        for what, message in forgeries.items():
            topic, payload = site.topics.down("victim", kind_of(message)), encode(message)
            rogue.publish(topic, payload)
            said = _said_of(agent, f"{topic}'")
            yield Attack(f"a broker that was taken over forges {what}", "it is not authentic" in said, said)


def _start_agent(site: _Site, name: str) -> Path:
    """The log of an agent that has joined, and is connected."""
    save_npz(site.directory / "data.npz", Dataset(np.zeros((8, 4), np.float32), np.zeros(8, np.int64)))
    place = site.directory / name
    token = format_token(site.token(name))
    site.children.run("join", "join", token, "--dir", str(place), "--data", str(site.directory / "data.npz"))
    site.children.start(name, "agent", "--config", str(place / "agent.toml"))
    _said_of(site.children.log(name), "connected")
    return site.children.log(name)


def _said_of(log: Path, text: str) -> str:
    """The first line with `text` that an agent says; empty if it says nothing in time."""
    deadline = time.monotonic() + _HEARD_S
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if text in line:
                return line.partition(": ")[2]
        time.sleep(0.05)
    return ""


def _use_a_revoked_certificate(site: _Site) -> Iterator[Attack]:
    place = site.join(site.token("captured"), "captured")
    broker, client_id = site.broker(place / CERTIFICATE, place / KEY), site.topics.agent_client("captured")

    def connect() -> None:
        with Client(broker, client_id):
            pass

    connect()
    state = revoke(site.gateway, "captured", datetime.now(UTC))
    refused, said = _refusal(connect)
    yield Attack(f"a revoked device connects ({state.value})", refused, said)


def _stand_between(site: _Site) -> Iterator[Attack]:
    """A stranger at the address where the gateway is expected."""
    stranger = site.make_gateway("stranger", free_port())
    shown = {
        "a stranger poses as the gateway at joining": stranger.authority.certificate,
        "a stranger shows the gateway's authority at joining": site.gateway.authority.certificate,
    }
    for number, (what, certificate) in enumerate(shown.items()):
        endpoint = _Stranger(certificate)
        port = free_port()
        token = dataclasses.replace(site.token(f"lured-{number}"), port=port)
        with EnrolmentServer(port, stranger.enrolment_files, endpoint.answer) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            refused, said = _refusal(site.join, token, f"lured-{number}")
            server.shutdown()
        yield Attack(what, refused and not endpoint.heard, said)


class _Stranger:
    """Answers everything with a certificate, and keeps what it is told."""

    def __init__(self, certificate: bytes) -> None:
        self._certificate = certificate
        self.heard = b""

    def answer(self, _method: str, _path: str, body: bytes, _address: str, _serial: int | None) -> Answer:
        self.heard += body
        return Answer(200, self._certificate)


def _misuse_tokens(site: _Site) -> Iterator[Attack]:
    """The last one is refused whatever it shows: it comes last."""
    used = site.token("pi-1")
    site.join(used, "pi-1")
    yield Attack("a token is used a second time", *_refusal(site.join, used, "second"))
    yield Attack("a token is used late", *_refusal(site.join, site.token("pi-2", valid_s=-1), "late"))
    guessed = dataclasses.replace(used, secret=new_secret())
    yield Attack("a token is invented", *_refusal(site.join, guessed, "guessed"))
    for _ in range(MOST_WRONG):
        _refusal(site.join, guessed, "guessed")
    refused, said = _refusal(site.join, guessed, "guessed")
    yield Attack("tokens are invented again and again", refused and "too many" in said, said)


if __name__ == "__main__":
    main()
