"""What helps unequal and unlike devices? `python -m benchmarks.unequal_work [--seeds 1,2,3] [--json FILE]`

Federations of ten agents train a perceptron of 51,000 weights on Fashion-MNIST, on LiteRT, in this process and
without pruning. Three comparisons, each with the same data, first weights and order of examples for
all of its rows:

- *Unequal work*: agents with 20 to 2,000 examples (Dirichlet 0.5) train two epochs a round. FedAvg beside FedNova.
- *Server optimizers*: agents with 600 examples each (Dirichlet 0.1) train one epoch a round.
- *Local layers*: the same agents evaluate, on a fifth of their own examples, the model with their own layers.

Printed are mean accuracies over the last five rounds.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from aggregator.server_optimizers import FedAdam, FedAvgM
from aggregator.settings import AS_USUAL, Aggregation
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.demo.rerun import seeds_option
from benchmarks.unequal_work.simulation import Federation, Outcome
from benchmarks.unequal_work.task import INPUTS, make_bundle
from fedprune.data import Dataset, fit_to, load_npz, save_npz
from fedprune.data.dataset import Source
from fedprune.data.partition import parse_partition
from fedprune.data.prepare import prepare
from fedprune.data.source import open_source
from fedprune.task.bundle import Bundle

_AGENTS = 10
_UNEQUAL = (20, 50, 100, 200, 300, 500, 800, 1000, 1500, 2000)
_EQUAL = (600,) * _AGENTS
_HELD_OUT = 2000


@dataclass(frozen=True)
class Row:
    """A federation of a comparison. `local` names the layers that stay on devices; with `agents_evaluate` the accuracy
    is theirs, on their own examples."""

    comparison: str
    name: str
    examples: tuple[int, ...]
    partition: str
    epochs: int
    rounds: int
    is_normalized: bool = False
    momentum: float = 0.9
    aggregation: Aggregation = AS_USUAL
    local: tuple[str, ...] = ()
    agents_evaluate: bool = False


def _unequal(name: str, momentum: float, aggregation: Aggregation = AS_USUAL) -> Row:
    comparison = f"unequal work, momentum {momentum:g}"
    return Row(comparison, name, _UNEQUAL, "dirichlet:0.5", 2, 12, momentum=momentum, aggregation=aggregation)


def _server(name: str, aggregation: Aggregation = AS_USUAL) -> Row:
    return Row("server optimizers", name, _EQUAL, "dirichlet:0.1", 1, 15, aggregation=aggregation)


def _personal(name: str, *local: str, is_normalized: bool = True) -> Row:
    return Row("local layers", name, _EQUAL, "dirichlet:0.1", 1, 15, is_normalized, local=local, agents_evaluate=True)


ROWS = (
    _unequal("FedAvg", 0.9),
    _unequal("FedNova", 0.9, Aggregation("fednova")),
    _unequal("FedAvg", 0.0),
    _unequal("FedNova", 0.0, Aggregation("fednova")),
    _server("FedAvg"),
    _server("FedAvgM, learning rate 1", Aggregation(optimizer=FedAvgM())),
    _server("FedAvgM, learning rate 0.3", Aggregation(optimizer=FedAvgM(0.3))),
    _server("FedAdam, learning rate 0.01", Aggregation(optimizer=FedAdam())),
    _personal("all shared", is_normalized=False),
    _personal("FedPer: head local", "head", is_normalized=False),
    _personal("all shared, batch normalisation"),
    _personal("FedBN: batch normalisation local", "batch_normalization"),
    _personal("both local", "batch_normalization", "head"),
)


class Result(msgspec.Struct, frozen=True):
    """A row's accuracies, by seed, and of the agent that is worst off where agents evaluate."""

    comparison: str
    name: str
    accuracies: tuple[float, ...]
    worst: tuple[float | None, ...]
    unkept: int


@click.command(cls=Script)
@seeds_option("1,2,3")
@json_option("Write the numbers there.")
def main(seeds: tuple[int, ...], target: Path | None) -> None:
    """Compare FedNova, server optimizers and local layers with FedAvg."""
    results = []
    with tempfile.TemporaryDirectory() as directory:
        data = _Data(open_source("fashion-mnist"), Path(directory))
        for row in ROWS:
            outcomes = [_run(row, data.of(row, seed), seed) for seed in seeds]
            results.append(
                Result(
                    row.comparison,
                    row.name,
                    tuple(outcome.accuracy for outcome in outcomes),
                    tuple(outcome.worst for outcome in outcomes),
                    sum(outcome.unkept for outcome in outcomes),
                )
            )
            click.echo(f"{row.comparison}, {row.name}: {', '.join(f'{each:.3f}' for each in results[-1].accuracies)}")
    write_json(results, target)
    Console(width=120).print(_table(results, seeds))


@dataclass(frozen=True)
class _Data:
    """Splits of Fashion-MNIST in a directory, each made once for all rows that want it."""

    source: Source
    directory: Path

    def of(self, row: Row, seed: int) -> Path:
        """The directory of the agents' images and the held-out ones, as vectors."""
        path = self.directory / f"{row.partition}-{max(row.examples)}-{seed}"
        if path.exists():
            return path
        prepare(
            self.source,
            parse_partition(row.partition),
            agents=_AGENTS,
            examples_per_agent=max(row.examples),
            held_out=_HELD_OUT,
            seed=seed,
            out=path,
        )
        for file in path.glob("*.npz"):
            save_npz(file, _flat(file))
        return path


def _run(row: Row, path: Path, seed: int) -> Outcome:
    bundle = make_bundle(
        epochs=row.epochs, seed=seed, is_normalized=row.is_normalized, local=row.local, momentum=row.momentum
    )
    shares = {f"agent-{index}": _share(path, index, bundle, most) for index, most in enumerate(row.examples)}
    held_out = None if row.agents_evaluate else path / "held-out.npz"
    return Federation(bundle, shares, row.aggregation, seed, held_out).run(row.rounds)


def _share(path: Path, index: int, bundle: Bundle, most: int) -> Dataset:
    data = fit_to(load_npz(path / f"agent-{index}.npz"), bundle.network.input_forms, bundle.task.output_forms)
    return data.take(np.arange(min(len(data), most)))


def _flat(path: Path) -> Dataset:
    """The images of a file as vectors."""
    data = load_npz(path)
    return Dataset(data.x.reshape(len(data), INPUTS), data.y)


def _table(results: list[Result], seeds: tuple[int, ...]) -> Table:
    table = Table(title="Accuracy, mean of the last five rounds", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("comparison", "federation", *(f"seed {seed}" for seed in seeds), "mean", "worst agent", "not kept"):
        table.add_column(heading, justify="left" if heading in ("comparison", "federation") else "right")
    for result in results:
        worst = [each for each in result.worst if each is not None]
        table.add_row(
            result.comparison,
            result.name,
            *(f"{each:.3f}" for each in result.accuracies),
            f"{statistics.mean(result.accuracies):.3f}",
            f"{statistics.mean(worst):.3f}" if worst else "",
            str(result.unkept),
        )
    return table
