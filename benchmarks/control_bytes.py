"""The bytes of a round beside model and update, on real sockets: `python -m benchmarks.control_bytes [--json FILE]`

Two devices that have joined a gateway train with the preset `frugal`, behind a relay that counts what passes; once over
its Mosquitto, with client certificates, and once over one without TLS, where what passes are MQTT packets alone. The
messages carry the devices' codes both times, and the manifests their signature.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from aggregator.book import RoundRecord
from benchmarks.children import Children, find_mosquitto, free_port
from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.demo.settings import cnn_table
from benchmarks.federation import reported_rounds
from benchmarks.relay import relayed
from benchmarks.task_file import frugal_course, task_file
from fedprune.data.partition import parse_partition
from fedprune.data.prepare import prepare
from fedprune.data.source import open_source
from fedprune.errors import BrokerError
from fedprune.identity.gateway import AGGREGATOR, AUTHORITY, CONFIGURATION, Gateway, init_gateway
from fedprune.identity.invitation import invite
from fedprune.identity.joining import AUTHENTICATION_KEY, CERTIFICATE, KEY, TRUSTED_ROOT, join_gateway
from fedprune.identity.settings import GatewaySettings
from fedprune.identity.token import parse_token
from fedprune.system.disk import Directory

_FEDERATION, _AGENTS, _STEPS, _SEED = "control", ("agent-0", "agent-1"), 5, 1
_SPARSITY = 0.9

_MOST_CONTROL, _MOST_MESSAGES = 150.0, 5.0
"""Of an agent and round: bytes of payload, and messages."""

_AGREEMENT = 0.02
"""Of the bytes on sockets, what the reported bytes may differ by: connecting, subscribing and pings are not counted."""


class Row(msgspec.Struct, frozen=True):
    """A federation. `payload_up` and `payload_down` are bytes by kind of an agent and round, from the second round on
    as the first has the task too; so are messages and `packets`, the bytes of MQTT packets. `reported` are the bytes of
    packets that the aggregator reports of the whole run, both ways, `passed` those that passed the agents' sockets."""

    connection: str
    rounds: int
    payload_up: dict[str, float]
    payload_down: dict[str, float]
    messages_up: float
    messages_down: float
    packets_up: float
    packets_down: float
    reported: int
    passed: int

    @property
    def control(self) -> float:
        return self.payload_up.get("control", 0.0) + self.payload_down.get("control", 0.0)


@click.command(cls=Script)
@click.option("--rounds", type=click.IntRange(2, 1000), default=40, show_default=True, help="Rounds of each run.")
@json_option("Write the rows there.")
def main(rounds: int, target: Path | None) -> None:
    """Count what a round of a frugal federation takes each agent, by kind, and compare it with what passes sockets.

    Exits with 1 if the two differ, or if control takes more than it should.
    """
    if find_mosquitto() is None:
        raise BrokerError("mosquitto is not installed; install it: what is counted are its bytes")
    with tempfile.TemporaryDirectory() as directory, Children(Path(directory)) as children:
        site = _Site(Path(directory), children, rounds)
        rows = [site.federate(connection) for connection in _CONNECTIONS]
    write_json(rows, target)
    Console(width=120).print(_table(rows))
    settle({claim: holds for row in rows for claim, holds in _claims(row).items()})


@dataclass(frozen=True)
class _Connection:
    """How agents reach the broker."""

    name: str
    has_tls: bool


_CONNECTIONS = (_Connection("client certificates", has_tls=True), _Connection("without TLS", has_tls=False))


class _Site:
    """A gateway, whose enrolment endpoint and broker run, a task, and devices that have joined."""

    def __init__(self, directory: Path, children: Children, rounds: int) -> None:
        self._directory, self._children, self._rounds = directory, children, rounds
        settings = GatewaySettings(("127.0.0.1",), _FEDERATION, free_port(), free_port())
        self._gateway = init_gateway(directory / "gateway", settings, datetime.now(UTC))
        children.start_command("secured", (_mosquitto(), "-c", str(self._gateway.path / CONFIGURATION)))
        children.await_port("secured", settings.broker_port)
        self._open_url = children.start_broker("mosquitto")
        _join_all(self._gateway, directory, children)
        self._build_task()

    def federate(self, connection: _Connection) -> Row:
        """Run a federation to its end. Raises `FedpruneError`s."""
        url = self._gateway.broker_url if connection.has_tls else self._open_url
        scheme, _, port = url.rpartition(":")
        name = "tls" if connection.has_tls else "open"
        with ExitStack() as stack:
            relay = stack.enter_context(relayed(int(port)))
            agents = [f"{agent}-{name}" for agent in _AGENTS]
            for agent, child in zip(_AGENTS, agents, strict=True):
                written = self._agent_toml(agent, child, f"{scheme}:{relay.port}", connection)
                self._children.start(child, "agent", "--config", str(self._write(agent, f"{name}.toml", written)))
            federation = self._write(".", f"{name}.toml", self._federation_toml(name, url, connection))
            aggregator = self._children.start(name, "aggregator", str(federation), "--json", piped=True)
            records = list(reported_rounds(aggregator, self._children, name))
            self._children.wait(name)
            self._children.stop(*agents)
            return _row(connection.name, records, relay.up + relay.down)

    def _build_task(self) -> None:
        split = prepare(
            open_source("digits"),
            parse_partition("iid"),
            agents=len(_AGENTS),
            examples_per_agent=200,
            held_out=200,
            seed=_SEED,
            out=self._directory / "data",
        )
        task = task_file(
            "control",
            cnn_table(split, _SEED),
            steps_per_round=_STEPS,
            rounds=self._rounds,
            sparsity=_SPARSITY,
            **frugal_course(_SPARSITY),
        )
        described, built = self._write(".", "task.toml", task), self._directory / "task.fedtask"
        self._children.run("task", "task", "build", str(described), "--out", str(built))

    def _federation_toml(self, state: str, url: str, connection: _Connection) -> str:
        own = self._gateway.path / AGGREGATOR
        tls = self._tls(own.with_suffix(".pem"), own.with_suffix(".key")) if connection.has_tls else ""
        return f"""\
name = "{_FEDERATION}"
task = "task.fedtask"
held_out = "data/held-out.npz"
state = "{state}"
seed = {_SEED}
gateway = "{self._gateway.path}"
codec.preset = "frugal"

[rounds]
count = {self._rounds}
cohort = {len(_AGENTS)}
quorum = 1.0
deadline_s = 600

[broker]
url = "{url}"
{tls}"""

    def _agent_toml(self, agent: str, state: str, url: str, connection: _Connection) -> str:
        place = self._directory / agent
        tls = self._tls(place / CERTIFICATE, place / KEY) if connection.has_tls else ""
        return f"""\
name = "{agent}"
federation = "{_FEDERATION}"
data = "../data/{agent}.npz"
state = "{state}"
trainer = "litert"
authentication_key = "{AUTHENTICATION_KEY}"
root_key = "{TRUSTED_ROOT}"

[broker]
url = "{url}"
{tls}"""

    def _tls(self, certificate: Path, key: Path) -> str:
        authority = self._gateway.path / f"{AUTHORITY}.pem"
        return f'tls = {{ ca = "{authority}", certificate = "{certificate}", key = "{key}" }}\n'

    def _write(self, place: str, name: str, text: str) -> Path:
        """Write a file into a place of the site; its path."""
        directory = Directory(self._directory / place)
        directory.write(name, text.encode())
        return directory.path / name


def _mosquitto() -> str:
    return find_mosquitto() or "mosquitto"


def _join_all(gateway: Gateway, directory: Path, children: Children) -> None:
    """Let the devices join, each into a directory of its name."""
    children.start("enrolment", "gateway", "run", "--dir", str(gateway.path))
    children.await_port("enrolment", gateway.settings.enrolment_port)
    for agent in _AGENTS:
        *_, token = invite(gateway, agent).split()
        join_gateway(parse_token(token), Directory(directory / agent))


def _row(connection: str, records: Sequence[RoundRecord], passed: int) -> Row:
    later = records[1:]
    shares = sum(record.agents for record in later)

    def mean(total: float) -> float:
        return round(total / shares, 2)

    def means(kinds: Sequence[dict[str, int]]) -> dict[str, float]:
        totals = sum((Counter(each) for each in kinds), Counter[str]())
        return {kind: mean(total) for kind, total in sorted(totals.items())}

    return Row(
        connection=connection,
        rounds=len(records),
        payload_up=means([record.bytes_up_by_kind for record in later]),
        payload_down=means([record.bytes_down_by_kind for record in later]),
        messages_up=mean(sum(record.messages_up for record in later)),
        messages_down=mean(sum(record.messages_down for record in later)),
        packets_up=mean(sum(record.mqtt_up for record in later)),
        packets_down=mean(sum(record.mqtt_down for record in later)),
        reported=sum(record.mqtt_up + record.mqtt_down for record in records),
        passed=passed,
    )


def _claims(row: Row) -> dict[str, bool]:
    """TLS adds its own bytes to those of packets, so it is the other connection that is compared."""
    messages = row.messages_up + row.messages_down
    name, found = row.connection, dict[str, bool]()
    if name == _CONNECTIONS[-1].name:
        off = row.reported / row.passed - 1.0
        found[f"{name}: what is reported is within {_AGREEMENT:.0%} of what passes ({off:+.1%})"] = (
            abs(off) <= _AGREEMENT
        )
    return found | {
        f"{name}: control takes at most {_MOST_CONTROL:.0f} bytes ({row.control:.0f})": row.control <= _MOST_CONTROL,
        f"{name}: a round takes at most {_MOST_MESSAGES:.0f} messages ({messages:.1f})": messages <= _MOST_MESSAGES,
    }


def _table(rows: Sequence[Row]) -> Table:
    table = Table(
        title="Bytes of an agent and round, up and down, from the second round on; and of the whole run",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("connection")
    for heading in ("messages", "control", "update", "model", "MQTT packets", "reported", "on sockets"):
        table.add_column(heading, justify="right")
    for row in rows:
        up, down = row.payload_up, row.payload_down
        table.add_row(
            row.connection,
            f"{row.messages_up:.1f} + {row.messages_down:.1f}",
            f"{up.get('control', 0):.0f} + {down.get('control', 0):.0f}",
            f"{up.get('update', 0):.0f}",
            f"{down.get('model', 0):.0f}",
            f"{row.packets_up:.0f} + {row.packets_down:.0f}",
            f"{row.reported:,}",
            f"{row.passed:,}",
        )
    return table


if __name__ == "__main__":
    main()
