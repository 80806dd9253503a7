"""Ways to prune, each in place of one step of the usual recipe: a schedule, an allocation, blocks, a score. They are
compared at 90 % on two small tasks. It imports TensorFlow."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.pruning.federation import federate
from benchmarks.pruning.recipes import INT8, Recipe, Schedules, dense, gradual, window_of
from benchmarks.pruning.results import Compared
from benchmarks.pruning.tasks import METHOD_TASKS, task_settings
from export.build import build_task
from export.excluded_layers import without_excluded
from export.settings import (
    ConstantSettings,
    CosineSettings,
    IterativeSettings,
    OneShotSettings,
    PruningSettings,
)
from fedprune.codecs import Values
from fedprune.model.tensors import sparsity
from fedprune.pruning.masks import Allocation
from fedprune.pruning.regrowth import Regrowth
from fedprune.pruning.scores import Score
from fedprune.task.bundle import Bundle, read_bundle, write_bundle

_SPARSITY = 0.9
_ITERATIONS = 5
_THRESHOLD = 1e-3
_EXCHANGED = 0.3
_BETWEEN_EXCHANGES = 2
_FIRST_LAYERS: Mapping[str, str] = {"images": "conv1", "windows": "conv1d"}


@dataclass(frozen=True)
class Method:
    """Pruning that replaces the usual one's; `l1`: the network has an L1 penalty on its kernels."""

    pruning: Schedules
    powerpropagation: float = 1.0
    excludes_first: bool = False
    l1: bool = False


def _usual(**changes: Any) -> Schedules:
    return lambda rounds: PruningSettings(gradual(_SPARSITY, rounds), **changes)


def _cosine(rounds: int) -> PruningSettings:
    begin, end = window_of(rounds)
    schedule = CosineSettings(initial_sparsity=0.0, target_sparsity=_SPARSITY, begin_round=begin, end_round=end)
    return PruningSettings(schedule)


def _iterative(rounds: int) -> PruningSettings:
    begin, end = window_of(rounds)
    every = (end - begin) // (_ITERATIONS - 1)
    end = begin + every * (_ITERATIONS - 1)
    return PruningSettings(
        IterativeSettings(target_sparsity=_SPARSITY, begin_round=begin, end_round=end, every_rounds=every)
    )


def _one_shot(rounds: int) -> PruningSettings:
    begin, end = window_of(rounds)
    return PruningSettings(OneShotSettings(target_sparsity=_SPARSITY, begin_round=(begin + end) // 2))


def _from_the_start(_: int) -> PruningSettings:
    return PruningSettings(ConstantSettings(target_sparsity=_SPARSITY, begin_round=0))


def _regrown(rounds: int) -> PruningSettings:
    return PruningSettings(gradual(_SPARSITY, rounds), regrowth=_regrowth(rounds))


def _regrown_from_the_start(rounds: int) -> PruningSettings:
    """RigL's own setting."""
    return msgspec.structs.replace(_from_the_start(rounds), regrowth=_regrowth(rounds))


def _regrowth(rounds: int) -> Regrowth:
    """RigL's fraction; the rounds after the last update of the mask train what came back."""
    _, end = window_of(rounds)
    return Regrowth(fraction=_EXCHANGED, every_rounds=_BETWEEN_EXCHANGES, until_round=end)


def _thresholded(rounds: int) -> PruningSettings:
    """No target: what L1 has made small goes."""
    begin, end = window_of(rounds)
    schedule = ConstantSettings(target_sparsity=0.0, begin_round=begin, end_round=end)
    return PruningSettings(schedule, threshold=_THRESHOLD)


METHODS: Mapping[str, Method] = {
    "dense": Method(dense),
    "LAMP, polynomial": Method(_usual()),
    "global": Method(_usual(allocation=Allocation.GLOBAL)),
    "ERK": Method(_usual(allocation=Allocation.ERK)),
    "uniform": Method(_usual(allocation=Allocation.UNIFORM)),
    "cosine": Method(_cosine),
    "iterative, 5 updates": Method(_iterative),
    "one-shot": Method(_one_shot),
    "from the start": Method(_from_the_start),
    "blocks of 1 x 4": Method(_usual(block=(1, 4))),
    "first layer dense": Method(_usual(), excludes_first=True),
    "sensitivity": Method(_usual(score=Score.SENSITIVITY)),
    "magnitude and sensitivity": Method(_usual(score={Score.MAGNITUDE: 1.0, Score.SENSITIVITY: 1.0})),
    "signed sensitivity": Method(_usual(score=Score.SIGNED_SENSITIVITY)),
    "powerpropagation, alpha 1.5": Method(_usual(), powerpropagation=1.5),
    "powerpropagation, alpha 2": Method(_usual(), powerpropagation=2.0),
    "regrowth": Method(_regrown),
    "from the start, regrowth": Method(_regrown_from_the_start),
    "L1 and a threshold": Method(_thresholded, l1=True),
}
"""The second is the usual recipe; the others change what their names say."""


def compare_methods(task: str, seed: int, wanted: frozenset[str]) -> Iterator[Compared]:
    """A federation of each of the `wanted` methods on one of `METHOD_TASKS`; all but L1 from one built task, as pruning
    changes no graph. Raises `FedpruneError`s."""
    chosen, rounds = METHOD_TASKS[task], METHOD_TASKS[task].scenario.rounds
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        prepared = chosen.scenario.prepare(seed, path / "data")
        built: dict[bool, Bundle] = {}
        for name in METHODS:
            if name not in wanted:
                continue
            method = METHODS[name]
            if method.l1 not in built:
                recipe = Recipe(dense, other_network=method.l1)
                built[method.l1] = read_bundle(build_task(task_settings(chosen, prepared, recipe, seed, rounds), path))
            bundle = _pruned(built[method.l1], method, rounds, _FIRST_LAYERS[task])
            outcome = federate(bundle, path / "data", INT8, Values.FP16, seed, rounds)
            yield Compared(
                method=name,
                task=task,
                seed=seed,
                rounds=rounds,
                sparsity=sparsity(outcome.checkpoint.weights, bundle.task.table),
                accuracy=outcome.accuracy,
                bytes_up=outcome.bytes_up,
                bytes_down=outcome.bytes_down,
            )


def _pruned(bundle: Bundle, method: Method, rounds: int, first: str) -> Bundle:
    task = bundle.task
    training = msgspec.structs.replace(task.training, powerpropagation=method.powerpropagation)
    tensors = without_excluded(task.tensors, (first,)) if method.excludes_first else task.tensors
    pruning = method.pruning(rounds).in_steps(training.clock_steps_per_round)
    changed = msgspec.structs.replace(task, training=training, pruning=pruning, tensors=tensors)
    weights = bundle.initial_weights() if task.initial is None else None
    return read_bundle(write_bundle(changed, network=bundle.network, weights=weights, graphs=bundle.graphs))
