"""A scenario's federations, run whole; and its network trained in one place."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aggregator.book import RoundRecord
from benchmarks.children import Children, default_broker
from benchmarks.federation import Federation, codec_of, run_federation
from benchmarks.federations.scenarios import Prepared, Scenario
from benchmarks.task_file import BATCH_SIZE, task_file
from fedprune.data.npz import count_examples
from fedprune.system.disk import Directory

_NAME = "benchmark"
_MOST_EPOCHS = 30
_DATA, _TASK = "data", "task.fedtask"


@dataclass(frozen=True)
class Run:
    """The held-out accuracy after each round, a fraction, and the final sparsity."""

    accuracies: tuple[float, ...]
    sparsity: float


@dataclass(frozen=True)
class Site:
    """A scenario with a seed, in a directory that has everybody's data and the task."""

    scenario: Scenario
    seed: int
    path: Path
    prepared: Prepared

    @property
    def source(self) -> str:
        return self.prepared.source

    def federate(self, trainer: str, codec: str) -> Run:
        """Run the federation, each part a process. Raises `FedpruneError`s, those of the children among them."""
        with tempfile.TemporaryDirectory(dir=self.path) as directory, Children(Path(directory)) as children:
            out = Path(directory)
            for name in (_DATA, _TASK):
                (out / name).symlink_to(self.path / name)
            federation = Federation(
                name=_NAME,
                agents=self.scenario.agents,
                rounds=self.scenario.rounds,
                seed=self.seed,
                codec=codec_of(codec),
                trainer=trainer,
                broker=default_broker(),
                out=out,
                suffix=self.prepared.suffix,
            )
            records: list[RoundRecord] = []
            run_federation(federation, children, records.append)
        return Run(tuple(record.accuracy or 0.0 for record in records), records[-1].sparsity)

    def train_centrally(self) -> tuple[float, ...]:
        """The held-out accuracy after each epoch over all agents' examples together: as many epochs as an agent has,
        but at most `_MOST_EPOCHS`."""
        seen = self.scenario.rounds * self.scenario.steps_per_round * BATCH_SIZE
        epochs = min(_MOST_EPOCHS, seen // count_examples(self.path / _DATA / "agent-0.npz"))
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_train_centrally, self.path, epochs, self.seed).result()


@contextmanager
def site(scenario: Scenario, seed: int, *, sparsity: float) -> Iterator[Site]:
    """Make the data, and build the task, in a passing directory. Raises `FedpruneError`s."""
    with tempfile.TemporaryDirectory() as directory, Children(Path(directory)) as children:
        path = Path(directory)
        prepared = scenario.prepare(seed, path / _DATA)
        task = task_file(
            _NAME,
            prepared.model,
            steps_per_round=scenario.steps_per_round,
            rounds=scenario.rounds,
            sparsity=sparsity,
            learning_rate=scenario.learning_rate,
            alpha=scenario.alpha,
            adam=scenario.adam,
            data=prepared.data,
        )
        Directory(path).write("task.toml", task.encode())
        children.run("task", "task", "build", str(path / "task.toml"), "--out", str(path / _TASK))
        yield Site(scenario, seed, path, prepared)


def _train_centrally(path: Path, epochs: int, seed: int) -> tuple[float, ...]:
    from benchmarks.federations.central import train_centrally  # TensorFlow, which the parent does without

    return train_centrally(path / _TASK, path / _DATA, epochs, seed)
