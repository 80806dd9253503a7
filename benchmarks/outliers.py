"""Who is taken for an outlier? `python -m benchmarks.outliers [--seeds 1,2,3] [--json FILE]`

Federations of honest agents train on LiteRT in this process, without a network: the agents' own rounds, updates and
residuals, and the gateway's own merging. Some of their updates come late, so that the next ones bring residuals along.
Printed are, for each federation: how near an honest update came to what is left out, from which factor on the update of
an agent would have been left out whoever had sent it (in the median round, and in the worst), and who was named as
standing apart. In the last federation one device has its data on another scale. Exits with 1 if an honest update is
left out, an honest merge is not kept, an honest agent is named, a factor of 10,000 is not always caught or one of 100
not in the median round, or the device with the other scale is not named.
"""

from __future__ import annotations

import math
import random
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from aggregator.book import AcceptedUpdate, RoundRecord
from aggregator.global_model import GlobalModel, new_model
from aggregator.outliers import FACTOR, LEAST_UPDATES, Norms
from aggregator.round_merge import Merger, largest_typical
from aggregator.standing_apart import ROUNDS, Signals, standing_apart
from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.demo.rerun import seeds_option
from benchmarks.demo.settings import DemoSettings, task_toml
from benchmarks.without_network import RUN, assignment_of, record_of, take_update
from edge_agent.local_round import LocalResult, LocalRound
from edge_agent.local_training import train_locally
from edge_agent.trainers.litert import LiteRTTrainer
from export.build import build_task
from export.settings import TaskSettings
from fedprune.codecs import DEFAULT_CODEC, ModelCodec, Values, parse_codec
from fedprune.config import from_table, read_table
from fedprune.data import Dataset, fit_to, load_npz
from fedprune.data.partition import parse_partition
from fedprune.data.prepare import prepare
from fedprune.data.source import open_source
from fedprune.errors import TrainingError
from fedprune.model.tensors import Weights
from fedprune.pruning.masks import full_mask
from fedprune.system.disk import Directory
from fedprune.task.bundle import read_bundle
from fedprune.task.evaluation import Evaluator

_HELD_OUT = 2000
_OFTEN, _ALWAYS = 100.0, 10_000.0


@dataclass(frozen=True)
class Scenario:
    """A federation: agents with so many examples in turn, of which a `cohort` trains in each round. A fraction of the
    updates comes `late`. `rescaled`: the last agent's inputs are x 20 + 128."""

    name: str
    agents: int
    examples: tuple[int, ...]
    partition: str = "dirichlet:0.5"
    cohort: int | None = None
    mask: str = "shared"
    late: float = 0.1
    rescaled: bool = False


SCENARIOS = (
    Scenario("demo", agents=4, examples=(1500,), late=0.0),
    Scenario("Dirichlet 0.1", agents=10, examples=(600,), partition="dirichlet:0.1"),
    Scenario("20 to 2,000 examples", agents=10, examples=(20, 50, 200, 800, 2000)),
    Scenario("own masks, Dirichlet 0.1", agents=6, examples=(20, 2000, 300), partition="dirichlet:0.1", mask="own"),
    Scenario("2 of 10 agents, Dirichlet 0.1", agents=10, examples=(600,), partition="dirichlet:0.1", cohort=2),
    Scenario("one device on another scale", agents=4, examples=(1500,), late=0.0, rescaled=True),
)


class Row(msgspec.Struct, frozen=True):
    """A federation with one seed. `nearest`: the largest norm of an honest update, in typical ones; `FACTOR` is what is
    left out. `caught_from`: the smallest factor at which any agent's update would have been left out, in the median
    round and in the worst. `left_out`: honest updates that were; `named`: agents that stand apart."""

    scenario: str
    seed: int
    updates: int
    left_out: int
    unkept: int
    nearest: float
    caught_from: tuple[float, float]
    named: tuple[str, ...]
    accuracy: float


@click.command(cls=Script)
@seeds_option("1,2,3")
@click.option("--rounds", type=click.IntRange(min=5), default=12, show_default=True, help="Of each federation.")
@json_option("Write the numbers there.")
def main(seeds: tuple[int, ...], rounds: int, target: Path | None) -> None:
    """Run honest federations, and see whose updates would be left out of a merge."""
    rows = [measure(scenario, seed, rounds) for scenario in SCENARIOS for seed in seeds]
    write_json(rows, target)
    Console(width=120).print(_table(rows))
    settle(claims(rows))


def claims(rows: list[Row]) -> dict[str, bool | None]:
    rescaled = {scenario.name: f"agent-{scenario.agents - 1}" for scenario in SCENARIOS if scenario.rescaled}
    honest = [row for row in rows if row.scenario not in rescaled]
    others = [row for row in rows if row.scenario in rescaled]
    return {
        "no honest update is left out": not any(row.left_out for row in rows),
        "every merge of honest updates is kept": not any(row.unkept for row in rows),
        "no honest agent is named": not any(row.named for row in honest),
        f"an update is always left out at a factor of {_ALWAYS:,.0f}": all(r.caught_from[1] <= _ALWAYS for r in rows),
        f"and in the median round at {_OFTEN:.0f}": all(row.caught_from[0] <= _OFTEN for row in rows),
        "the device on another scale is named, and nobody else": all(
            row.named == (rescaled[row.scenario],) for row in others
        ),
    }


def measure(scenario: Scenario, seed: int, rounds: int) -> Row:
    with tempfile.TemporaryDirectory() as directory:
        return _Federation(scenario, seed, rounds, Path(directory)).run()


class _Federation:
    """One federation in this process."""

    def __init__(self, scenario: Scenario, seed: int, rounds: int, path: Path) -> None:
        self._scenario, self._seed, self._rounds = scenario, seed, rounds
        settings = _settings(scenario, seed, rounds, path)
        split = prepare(
            open_source("auto"),
            parse_partition(scenario.partition),
            agents=scenario.agents,
            examples_per_agent=max(scenario.examples),
            held_out=_HELD_OUT,
            seed=seed,
            out=path,
        )
        (path / "task.toml").write_text(task_toml(settings, split))
        self._bundle = read_bundle(build_task(from_table(read_table(path / "task.toml"), TaskSettings, "task"), path))
        self._trainer = LiteRTTrainer(self._bundle, examples=max(scenario.examples), threads=1)
        self._evaluator = Evaluator(self._bundle, path / "held-out.npz", threads=1)
        self._data = {f"agent-{index}": self._share(path, index) for index in range(scenario.agents)}
        self._disk = Directory(path / "updates")
        self._merger = Merger(
            self._bundle.task, self._bundle.network, RUN, seed, ModelCodec(Values.FP16), parse_codec(DEFAULT_CODEC),
            self._disk,
            self._evaluator.evaluate, self._evaluator.loss_scale,
        )  # fmt: skip
        self._residuals: dict[str, Weights] = {}
        self._apart: dict[str, int] = {}
        self._named: set[str] = set()
        self._chance = random.Random(seed)

    def run(self) -> Row:
        task = self._bundle.task
        model = new_model(self._bundle.initial_weights(), task, RUN, 0, Values.FP16, full_mask(task.table))
        records: list[RoundRecord] = []
        honest, nearest, caught = 0, 0.0, list[float]()
        left_out = 0
        for round_ in range(self._rounds):
            updates = dict(self._updates(model))
            earlier = largest_typical(records)
            merged = self._merger.merge(model, updates, records)
            culprit = f"agent-{self._scenario.agents - 1}" if self._scenario.rescaled else None
            norms = [update.delta_norm for agent, update in updates.items() if agent != culprit]
            nearest = max(nearest, _nearest(norms, earlier))
            caught += _caught_from(norms, earlier)
            honest += len(norms)
            left_out += len(merged.left_out.keys() - {culprit}) if merged.kept else 0
            self._judge(updates)
            model = merged.model
            records.append(record_of(round_, merged))
        return Row(
            scenario=self._scenario.name,
            seed=self._seed,
            updates=honest,
            left_out=left_out,
            unkept=sum(not record.kept for record in records),
            nearest=nearest,
            caught_from=(statistics.median(caught), max(caught)),
            named=tuple(sorted(self._named)),
            accuracy=records[-1].accuracy or 0.0,
        )

    def _share(self, path: Path, index: int) -> Dataset:
        scenario, task = self._scenario, self._bundle.task
        network = self._bundle.network
        data = fit_to(load_npz(path / f"agent-{index}.npz"), network.input_forms, task.output_forms)
        data = data.take(np.arange(min(len(data), scenario.examples[index % len(scenario.examples)])))
        if scenario.rescaled and index == scenario.agents - 1:
            return Dataset((data.x * 20 + 128).astype(np.float32), data.y, data.origin)
        return data

    def _updates(self, model: GlobalModel) -> Iterator[tuple[str, AcceptedUpdate]]:
        """What a cohort sends in time; the disk then holds it. Whose training diverges sends nothing."""
        everybody = list(self._data)
        for agent in sorted(self._chance.sample(everybody, self._scenario.cohort or len(everybody))):
            try:
                result = self._train(agent, model)
            except TrainingError:
                continue
            if self._chance.random() < self._scenario.late:
                self._residuals[agent] = result.update.residual_if_late
                continue
            self._residuals[agent] = result.update.residual_if_accepted
            training, blob = self._bundle.task.training, result.update.blob
            yield agent, take_update(self._merger, self._disk, model, agent, result.submit, blob, training)

    def _train(self, agent: str, model: GlobalModel) -> LocalResult:
        assignment = assignment_of(self._bundle, model, seed=self._seed, codec=DEFAULT_CODEC)
        local = LocalRound(agent, assignment, model.blob, lambda: self._residuals.get(agent), None, 0.0)
        return train_locally(local, self._bundle, self._trainer, self._data[agent])

    def _judge(self, updates: Mapping[str, AcceptedUpdate]) -> None:
        """Count the rounds in a row in which each agent stands apart."""
        signals = {agent: Signals(each.loss, each.x_mean, each.x_largest) for agent, each in updates.items()}
        apart = standing_apart(signals, self._evaluator.loss_scale.constant)
        for agent in updates:
            self._apart[agent] = self._apart.get(agent, 0) + 1 if agent in apart else 0
            if self._apart[agent] >= ROUNDS:
                self._named.add(agent)


def _settings(scenario: Scenario, seed: int, rounds: int, path: Path) -> DemoSettings:
    return DemoSettings(
        agents=scenario.agents,
        rounds=rounds,
        examples_per_agent=min(1500, max(scenario.examples)),
        partition=scenario.partition,
        seed=seed,
        sparsity=0.8,
        units=0.0,
        codec=DEFAULT_CODEC,
        preset=None,
        mask=scenario.mask,
        trainer="litert",
        broker="none",
        federation="outliers",
        data="auto",
        out=path,
    )


def _nearest(norms: list[float], earlier: Norms) -> float:
    """The largest norm, in typical ones; 0 where nothing is typical yet."""
    usual = _usual(norms, earlier)
    return max(norms, default=0.0) / usual if usual else 0.0


def _caught_from(norms: list[float], earlier: Norms) -> list[float]:
    """For each update the factor from which on it would be left out, the others being what they are."""
    factors = list[float]()
    for index, norm in enumerate(norms):
        usual = _usual([*norms[:index], *norms[index + 1 :], math.inf], earlier)
        if usual:
            factors.append(FACTOR * usual / norm)
    return factors


def _usual(norms: list[float], earlier: Norms) -> float:
    of_round = statistics.median_low(norms) if len(norms) >= LEAST_UPDATES else 0.0
    return max(earlier.delta, of_round)


def _table(rows: list[Row]) -> Table:
    title = f"Honest federations; an update of more than {FACTOR:.0f} typical norms is left out"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for heading in (
        "federation",
        "seed",
        "updates",
        "left out",
        "nearest",
        "caught from",
        "worst",
        "named",
        "accuracy",
    ):
        table.add_column(heading, justify="left" if heading in ("federation", "named") else "right")
    for row in rows:
        table.add_row(
            row.scenario,
            str(row.seed),
            str(row.updates),
            str(row.left_out),
            f"{row.nearest:.1f}",
            f"x {row.caught_from[0]:.0f}",
            f"x {row.caught_from[1]:.0f}",
            ", ".join(row.named),
            f"{row.accuracy:.3f}",
        )
    return table


if __name__ == "__main__":
    main()
