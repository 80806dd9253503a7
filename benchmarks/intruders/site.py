"""The gateway that is attacked, its parts that run, and what its agents say."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.children import Children, find_mosquitto, free_port
from fedprune.data import Dataset, save_npz
from fedprune.errors import FedpruneError
from fedprune.identity.audit import Client
from fedprune.identity.certificates import fingerprint
from fedprune.identity.gateway import AGGREGATOR, AUTHORITY, CONFIGURATION, Gateway, init_gateway
from fedprune.identity.joining import join_gateway
from fedprune.identity.settings import GatewaySettings
from fedprune.identity.token import FINGERPRINT_BYTES, JoinToken, format_token, new_secret
from fedprune.system.disk import Directory
from fedprune.wire.broker import Broker, Tls
from fedprune.wire.topics import Topics

_FEDERATION = "intruders"
_HOUR_S = 3600
_HEARD_S = 600.0
"""In which an agent has said what it thinks of a forgery, however busy the machine is."""


_EXAMPLES = Dataset(np.zeros((8, 4), np.float32), np.zeros(8, np.int64))
"""Of agents that learn nothing."""


class Attack(msgspec.Struct, frozen=True):
    """`said` is what the victim says, where it says something. What has to be let pass, so that the fleet goes on, is
    no attack, and `must_pass`."""

    tried: str
    refused: bool
    said: str = ""
    must_pass: bool = False

    @property
    def is_right(self) -> bool:
        return self.refused != self.must_pass

    @property
    def outcome(self) -> str:
        """One word, that shouts where it should be another."""
        word = "refused" if self.refused else "passed"
        return f"{word if self.is_right else word.upper():7}"


class Site:
    """A gateway whose broker and enrolment endpoint run."""

    def __init__(self, directory: Path, children: Children) -> None:
        self.directory, self.children = directory, children
        self.topics = Topics(_FEDERATION)
        self.gateway = self.make_gateway("gateway", free_port())
        self._start_broker()
        children.start("gateway", "gateway", "run", "--dir", str(self.gateway.path))
        children.await_port("gateway", self.gateway.settings.enrolment_port)

    def restart_broker(self) -> None:
        self.children.stop("broker")
        self._start_broker()

    def _start_broker(self) -> None:
        configuration = str(self.gateway.path / CONFIGURATION)
        self.children.start_command("broker", (find_mosquitto() or "mosquitto", "-c", configuration))
        self.children.await_port("broker", self.gateway.settings.broker_port)

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

    def rogue_broker(self) -> Client:
        """Who may publish anything, as a broker can that was taken over."""
        path = self.gateway.path
        return Client(
            self.broker(path / f"{AGGREGATOR}.pem", path / f"{AGGREGATOR}.key"), self.topics.aggregator_client
        )

    def start_agent(self, name: str, examples: Dataset = _EXAMPLES) -> Path:
        """The log of an agent that has joined, and is connected."""
        save_npz(self.directory / "data.npz", examples)
        place, data = self.directory / name, str(self.directory / "data.npz")
        self.children.run("join", "join", format_token(self.token(name)), "--dir", str(place), "--data", data)
        config = place / "agent.toml"
        config.write_text(f'trainer = "litert"\n{config.read_text()}')
        log = self.children.log(name)
        log.touch()
        answer(log, "connected", lambda: self.children.start(name, "agent", "--config", str(config)))
        return log


def answer(log: Path, text: str, *acts: Callable[[], object], from_its_start: bool = False) -> str:
    """The first line with `text` that an agent says once `acts` are begun, or since it was started; empty if it says
    none in time."""
    before = 0 if from_its_start else len(log.read_text())
    for act in acts:
        act()
    deadline = time.monotonic() + _HEARD_S
    while time.monotonic() < deadline:
        for line in log.read_text()[before:].splitlines():
            if text in line:
                return line.partition(": ")[2]
        time.sleep(0.05)
    return ""


def refusal(attempt: Callable[..., object], *arguments: object) -> tuple[bool, str]:
    """Whether something is refused, and in which words."""
    try:
        attempt(*arguments)
    except FedpruneError as error:
        return True, str(error)
    return False, ""
