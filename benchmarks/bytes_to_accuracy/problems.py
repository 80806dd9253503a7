"""What the federations that are compared learn: the data of their agents, and the network. Nothing here imports
TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.bytes_to_accuracy.records import Arrangement
from benchmarks.demo.settings import cnn_table
from benchmarks.federations.windows import people
from fedprune.data import Dataset, save_npz
from fedprune.data.partition import parse_partition
from fedprune.data.prepare import prepare
from fedprune.data.source import open_source
from fedprune.errors import ConfigurationError

BY_PERSON = "person"
"""The partition in which each agent has a person's examples."""

_HELD_OUT_IMAGES = 10_000
_NORMALISED = 'form = "arrays"\nnormalize = { kind = "standard", mean = [0.286], std = [0.353] }'
"""Of Fashion-MNIST's pixels, as fractions."""


@dataclass(frozen=True)
class Tables:
    """The tables ``[model]`` and ``[data]`` of task.toml; without data these are taken as they are."""

    model: str
    data: str = ""


@dataclass(frozen=True)
class Problem:
    """A task. `prepare` writes agent-0.npz and so on, and held-out.npz, into a directory, as partition and seed have
    them; each agent has `examples`. `partitions` are those that there are, the usual one first."""

    name: str
    agents: int
    examples: int
    partitions: tuple[str, ...]
    prepare: Callable[[Problem, str, int, Path], Tables]


def _images(problem: Problem, partition: str, seed: int, path: Path) -> Tables:
    """Fashion-MNIST and CNN-108k."""
    split = prepare(
        open_source("auto"),
        parse_partition(partition),
        agents=problem.agents,
        examples_per_agent=problem.examples,
        held_out=_HELD_OUT_IMAGES,
        seed=seed,
        out=path,
    )
    return Tables(cnn_table(split, seed), _NORMALISED)


def _images_and_wide_network(problem: Problem, partition: str, seed: int, path: Path) -> Tables:
    """Fashion-MNIST and the same layers, ten times the parameters."""
    return Tables(_network("wide_cnn", seed), _images(problem, partition, seed, path).data)


def _windows(problem: Problem, _partition: str, seed: int, path: Path) -> Tables:
    """Accelerometer windows, a person for each agent; other windows of the same people are held out."""
    own, held_out = np.split(np.arange(2 * problem.examples), 2)
    of_all = people(seed, 0, problem.agents, 2 * problem.examples)
    for index, data in enumerate(of_all):
        save_npz(path / f"agent-{index}.npz", data.take(own))
    others = [data.take(held_out) for data in of_all]
    x, y = (np.concatenate([getattr(data, part) for data in others]) for part in ("x", "y"))
    save_npz(path / "held-out.npz", Dataset(x, y))
    return Tables(_network("window_net", seed))


def _network(function: str, seed: int) -> str:
    return f'file = "benchmarks.bytes_to_accuracy.networks:{function}"\ninitial = "seed"\nseed = {seed}'


_OF_IMAGES = ("dirichlet:0.5", "iid")

PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("cnn-108k", 10, 600, _OF_IMAGES, _images),
        Problem("cnn-1m", 10, 600, _OF_IMAGES, _images_and_wide_network),
        Problem("windows", 20, 300, (BY_PERSON,), _windows),
    )
}
"""By name, the usual one first."""

USUAL_PROBLEM = PROBLEMS["cnn-108k"]


def arrangement_of(problem: Problem, partition: str | None, participation: float) -> Arrangement:
    """Its usual partition if None is given. Raises `ConfigurationError` for one that it does not have.

    Example:
        >>> arrangement_of(PROBLEMS["windows"], None, 0.5)
        Arrangement(partition='person', participation=0.5, problem='windows')
    """
    partition = partition or problem.partitions[0]
    if partition not in problem.partitions:
        raise ConfigurationError(f"--partition {partition}: {problem.name} has {' and '.join(problem.partitions)}")
    return Arrangement(partition, participation, problem.name)
