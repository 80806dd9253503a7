"""A gateway as a person makes it: `fedprune gateway init`, and Mosquitto with the configuration that it wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fedprune.identity.certificates import fingerprint
from fedprune.identity.enrolment import Enrolment
from fedprune.identity.enrolment_server import EnrolmentServer
from fedprune.identity.gateway import init_gateway
from fedprune.identity.settings import GatewaySettings
from fedprune.identity.token import FINGERPRINT_BYTES, JoinToken, format_token
from fedprune.wire.broker import Broker, Tls
from tests.brokers import EXECUTABLE, free_port
from tests.federations import NAME
from tests.processes import Child, ran, run
from tests.served import served


@dataclass(frozen=True)
class SecuredGateway:
    """A gateway's directory, made by the command."""

    path: Path
    broker_port: int
    enrolment_port: int

    @classmethod
    def made(cls, path: Path, *hosts: str) -> SecuredGateway:
        gateway = cls(path, free_port(), free_port())
        gateway.init(*hosts)
        return gateway

    def init(self, *hosts: str) -> None:
        ports = ("--broker-port", str(self.broker_port), "--enrolment-port", str(self.enrolment_port))
        code, said = run(
            "gateway", "init", *(hosts or ("127.0.0.1",)), "--dir", self.path, "--federation", NAME, *ports
        )
        assert code == 0, said

    @contextmanager
    def broker(self) -> Iterator[Child]:
        assert EXECUTABLE is not None
        with Child("-c", self.path / "mosquitto.conf", by=(EXECUTABLE,)) as process:
            process.says("running")
            yield process

    @contextmanager
    def endpoint(self) -> Iterator[Child]:
        """`fedprune gateway run`."""
        with Child("gateway", "run", "--dir", self.path) as process:
            process.says("devices can join at port")
            yield process

    def enrol(self, name: str) -> str:
        """A token for a device."""
        command, subcommand, token = self._said("enroll", name).split()
        assert (command, subcommand) == ("fedprune", "join")
        return token

    def revoke(self, name: str) -> str:
        """What is said of it."""
        return self._said("revoke", name)

    def client(self, name: str = "aggregator") -> Broker:
        """The broker, for who has a certificate in this directory."""
        certificate, key = (str(self.path / f"{name}.{kind}") for kind in ("pem", "key"))
        tls = Tls(ca=str(self.path / "ca.pem"), certificate=certificate, key=key)
        return Broker(f"mqtts://127.0.0.1:{self.broker_port}", tls=tls)

    def change(self, name: str, old: str, new: str) -> None:
        """Change a file of the configuration as somebody who knows better would."""
        text = (self.path / name).read_text()
        assert old in text
        (self.path / name).write_text(text.replace(old, new))

    def check(self) -> tuple[int, dict[str, dict[str, Any]], str]:
        """Exit code, what was tried by its name, and what was said, of `fedprune gateway check --json`."""
        code, found, said = ran("gateway", "check", "--json", "--dir", self.path)
        return code, {row["tried"]: row for row in json.loads(found or "[]")}, said

    def _said(self, *arguments: str) -> str:
        """What a command prints."""
        code, printed, errors = ran(*arguments, "--dir", self.path)
        assert code == 0, errors
        return printed


@contextmanager
def made_long_ago(path: Path) -> Iterator[tuple[SecuredGateway, str]]:
    """A gateway of eight years ago, and a token of then for the device pi-1, which can join meanwhile."""
    long_ago, port = datetime.now(UTC) - timedelta(days=8 * 365), free_port()
    settings = GatewaySettings(("127.0.0.1",), federation=NAME, broker_port=free_port(), enrolment_port=port)
    made = init_gateway(path, settings, long_ago)
    token = JoinToken(
        "pi-1", ("127.0.0.1",), port, fingerprint(made.authority.certificate)[:FINGERPRINT_BYTES], bytes(12)
    )
    made.devices.invite(token.name, token.secret, int(long_ago.timestamp()) + 1)
    then = Enrolment(made, lambda: 0.0, lambda: long_ago)
    with served(EnrolmentServer(port, made.enrolment_files, then.answer)):
        yield SecuredGateway(path, settings.broker_port, port), format_token(token)
