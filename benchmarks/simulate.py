"""`fedprune simulate`: a directory's federation on this machine, with the person's own data shared out over agents."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import click

from aggregator.book import RoundRecord
from aggregator.command import round_line
from aggregator.settings import Codec, FederationSettings
from benchmarks.children import Children, default_broker
from benchmarks.federation import Federation, run_federation
from edge_agent.settings import AgentSettings
from fedprune.config import load_toml
from fedprune.data.dataset import Source
from fedprune.data.partition import ByGroup, Dirichlet, Iid, Partition, parse_partition
from fedprune.data.prepare import prepare
from fedprune.data.source import own_source
from fedprune.data.task_toml import load_description
from fedprune.errors import ConfigurationError, DataError
from fedprune.system.disk import Directory
from fedprune.system.output import say
from fedprune.system.paths import path_text, shell_text
from fedprune.task.bundle import load_bundle

MAX_AGENTS = 64
"""Agents, each a process."""

_FEDERATION = "federation.toml"
_MARKER = "simulation.txt"
_OWN = ("agents", "data", "logs", "run")
_OWN_FILES = ("task.fedtask", "federation.toml", "mosquitto.conf")
_HELD_OUT = 10_000
"""Examples that are held out, at most."""

_USUAL_ALPHA = 1.0


@dataclass(frozen=True)
class _Simulation:
    """What is run: `directory` has the files that `fedprune init` writes, `data` says where the examples are."""

    directory: Path
    data: str
    agents: int
    partition: str | None
    rounds: int
    seed: int
    codec: Codec
    trainer: str | None
    broker: str
    out: Path


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--data", metavar="PATH", help="All examples, of the task's form.  [default: data in agent.toml]")
@click.option(
    "--agents", type=click.IntRange(1, MAX_AGENTS), help="Agents, each a process.  [default: the federation's cohort]"
)
@click.option(
    "--partition",
    metavar="iid|dirichlet:ALPHA|group",
    help="How examples are spread over agents.  [default: by group, where the task has groups and there are enough; "
    "dirichlet:1 of classes; iid of numbers]",
)
@click.option(
    "--trainer",
    type=click.Choice(["keras", "litert"]),
    help="What the agents train with.  [default: LiteRT, as devices do; TensorFlow where no training graph was proven]",
)
@click.option(
    "--broker",
    metavar="embedded|mosquitto|URL",
    help="The broker.  [default: mosquitto if it is installed, else embedded]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where it goes.  [default: DIRECTORY/simulation]",
)
def simulate(
    directory: Path,
    data: str | None,
    agents: int | None,
    partition: str | None,
    trainer: str | None,
    broker: str | None,
    out: Path | None,
) -> None:
    """Run the federation that DIRECTORY describes on this machine: broker, aggregator and agents are processes.

    It builds DIRECTORY/task.toml, shares your data out over the agents, and runs the rounds of
    DIRECTORY/federation.toml, of which the number of rounds, the seed and the codec are taken. A fifth of the data is
    held out, to evaluate each round with. Afterwards `fedprune export OUT/run` makes the .tflite files.

    \b
      fedprune init mine --from model.py --data photos
      fedprune simulate mine
      fedprune export mine/simulation/run
    """
    if not (directory / _FEDERATION).exists():
        raise ConfigurationError(
            f"{path_text(directory)}: no {_FEDERATION} in it; "
            f"`fedprune init {shell_text(directory)} --from MODEL --data PATH` writes one"
        )
    federation = load_toml(directory / _FEDERATION, FederationSettings)
    shown = directory / "simulation" if out is None else out
    simulation = _Simulation(
        directory=directory,
        data=str(_data_path(directory)) if data is None else data,
        agents=min(federation.rounds.cohort, MAX_AGENTS) if agents is None else agents,
        partition=partition,
        rounds=federation.rounds.count,
        seed=federation.seed,
        codec=federation.codec,
        trainer=trainer,
        broker=default_broker() if broker is None else broker,
        out=shown.resolve(),
    )
    _run(simulation)
    say(f"The run is in {path_text(shown / 'run')}; its files for devices: fedprune export {shell_text(shown / 'run')}")


def _run(simulation: _Simulation) -> None:
    out = simulation.out
    source, how = _shared(simulation)
    _clear(out)
    with Children(out) as children:
        say(f"Sharing out {len(source.train)} examples over {simulation.agents} agents, {how}")
        prepare(
            source,
            how,
            agents=simulation.agents,
            examples_per_agent=_each(source, how, simulation.agents),
            held_out=_HELD_OUT,
            seed=simulation.seed,
            out=out / "data",
        )
        say("Building the task: what devices will run is compared with TensorFlow")
        task = str(simulation.directory / "task.toml")
        children.run("task", "task", "build", task, "--out", str(out / "task.fedtask"))
        say(children.log("task").read_text().strip())
        _federate(simulation, children)


def _federate(simulation: _Simulation, children: Children) -> None:
    def on_round(record: RoundRecord) -> None:
        say(round_line(record, simulation.rounds))

    run_federation(
        Federation(
            name="simulation",
            agents=simulation.agents,
            rounds=simulation.rounds,
            seed=simulation.seed,
            codec=simulation.codec,
            trainer=simulation.trainer or _trainer(simulation.out / "task.fedtask"),
            broker=simulation.broker,
            out=simulation.out,
        ),
        children,
        on_round,
    )


def _trainer(bundle: Path) -> str:
    """The light trainer, unless the task has no graph for it."""
    return "litert" if load_bundle(bundle).graphs else "keras"


def _data_path(directory: Path) -> Path:
    path = directory / "agent.toml"
    if not path.exists():
        raise ConfigurationError(f"{path}: there is none, which would say where the data are; name them with --data")
    return (directory / load_toml(path, AgentSettings).data).resolve()


def _shared(simulation: _Simulation) -> tuple[Source, Partition]:
    """All examples, and how they are shared out."""
    data = load_description(simulation.directory / "task.toml")
    how = None if simulation.partition is None else parse_partition(simulation.partition)
    source = own_source(Path(simulation.data), data)
    if how is not None:
        return source, how
    provenance = source.train.provenance
    if provenance is not None and int(provenance.groups.max()) + 1 >= 2 * simulation.agents:
        return source, ByGroup()
    return source, Iid() if source.train.class_numbers is None else Dirichlet(_USUAL_ALPHA)


def _each(source: Source, how: Partition, agents: int) -> int:
    """Examples of an agent, at most."""
    total = len(source.train)
    each = total if isinstance(how, ByGroup) else (total - total // 5) // agents
    if not each:
        raise DataError(f"{source.name}: {total} examples are too few for {agents} agents; name fewer with --agents")
    return each


def _clear(out: Path) -> None:
    """Clear what an earlier simulation left. Raises `ConfigurationError` if somebody else's files are there."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / _MARKER).exists())):
        raise ConfigurationError(f"{out}: not empty, and not from a simulation; name another --out")
    for name in _OWN:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in _OWN_FILES:
        (out / name).unlink(missing_ok=True)
    Directory(out).write(_MARKER, b"Written by fedprune simulate, which clears this directory when it runs again.\n")
