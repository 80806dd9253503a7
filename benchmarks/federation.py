"""A whole federation on this machine: broker, aggregator and agents, each a process that is called as a user would."""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aggregator.book import RoundRecord
from aggregator.settings import Codec
from benchmarks.children import Children
from fedprune.system.disk import Directory

_CHECK_S = 1.0

DENSE_CODEC = "mask | fp32"
"""The codec of updates of federations that others are compared with: nothing is lost."""


def codec_of(update: str) -> Codec:
    """The codec with these updates, whose models are fp32 with `DENSE_CODEC`, so that nothing is lost, else fp16."""
    return Codec(update=update, model_values="fp32" if update == DENSE_CODEC else "fp16")


@dataclass(frozen=True)
class Federation:
    """A federation in the directory `out`, which holds task.fedtask, and in data/ everybody's examples: agent-0 and so
    on, and held-out, each with the `suffix`. `broker` is embedded, mosquitto, or an mqtt:// address; `name` is the
    federation's there. In a cluster the aggregator may have another address, `aggregators_broker`.
    """

    name: str
    agents: int
    rounds: int
    seed: int
    codec: Codec
    trainer: str
    broker: str
    out: Path
    suffix: str = ".npz"
    aggregators_broker: str | None = None


def run_federation(federation: Federation, children: Children, on_round: Callable[[RoundRecord], None]) -> None:
    """Run it to its end; `out`/run is then the aggregator's directory. Raises `ChildFailedError`, `BrokerError`."""
    out = federation.out
    url = children.start_broker(federation.broker)
    Directory(out).write("federation.toml", _federation_toml(federation, federation.aggregators_broker or url).encode())
    aggregator = children.start("aggregator", "aggregator", str(out / "federation.toml"), "--json", piped=True)
    agents = [_agent_name(index) for index in range(federation.agents)]
    configurations = Directory(out / "agents")
    for name in agents:
        configurations.write(f"{name}.toml", _agent_toml(federation, name, url).encode())
        children.start(name, "agent", "--config", str(out / "agents" / f"{name}.toml"))
    for record in reported_rounds(aggregator, children, "aggregator"):
        on_round(record)
    children.wait("aggregator")
    children.stop(*agents)
    children.check()


def reported_rounds(aggregator: subprocess.Popen[str], children: Children, name: str) -> Iterator[RoundRecord]:
    """The rounds that the aggregator, the child `name`, reports until it ends.

    Raises `ChildFailedError` soon after another child has ended: the aggregator would wait for a lost agent until the
    round's deadline, and for the broker for ever.
    """
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in aggregator.stdout or ():
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, name="aggregator's output", daemon=True).start()
    while True:
        with suppress(queue.Empty):
            line = lines.get(timeout=_CHECK_S)
            if line is None:
                return
            yield msgspec.json.decode(line, type=RoundRecord)
        children.check(except_for=name)


def _federation_toml(federation: Federation, broker_url: str) -> str:
    """The file that says how it is learned. The fleet is named, so that equal runs have equal cohorts."""
    return f"""\
name = "{federation.name}"
task = "task.fedtask"
held_out = "data/held-out{federation.suffix}"
state = "run"
seed = {federation.seed}

[broker]
url = "{broker_url}"

[rounds]
count = {federation.rounds}
cohort = {federation.agents}
fleet = {[_agent_name(index) for index in range(federation.agents)]}
deadline_s = 3600

[codec]
{_codec_toml(federation.codec)}"""


def _codec_toml(codec: Codec) -> str:
    given = {name: value for name, value in msgspec.structs.asdict(codec).items() if value is not None}
    return "".join(f'{name} = "{value}"\n' for name, value in given.items())


def _agent_name(index: int) -> str:
    return f"agent-{index}"


def _agent_toml(federation: Federation, name: str, broker_url: str) -> str:
    return f"""\
name = "{name}"
data = "../data/{name}{federation.suffix}"
state = "{name}"
federation = "{federation.name}"
trainer = "{federation.trainer}"

[broker]
url = "{broker_url}"
"""
