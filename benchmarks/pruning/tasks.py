"""The tasks that pruning is compared on: images with CNN-108k, and two small ones. Nothing here imports TensorFlow."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.demo.settings import cnn_table
from benchmarks.federations.scenarios import LEARNED, PAIRED, Prepared, Scenario
from benchmarks.pruning.recipes import Recipe
from benchmarks.task_file import BATCH_SIZE
from export.settings import ModelSettings, TaskSettings
from fedprune.config import from_table
from fedprune.data.description import Arrays, Standard
from fedprune.data.partition import Dirichlet
from fedprune.data.prepare import prepare
from fedprune.data.source import open_source
from fedprune.task.learning_rates import CosineDecay
from fedprune.task.training import Sgd, Training

_AGENTS, _EXAMPLES, _HELD_OUT = 10, 600, 10_000
_PIXELS = Arrays(normalize=Standard(mean=(0.286,), std=(0.353,)))
"""Of Fashion-MNIST's pixels, as fractions."""
_AS_THEY_ARE = Arrays()
_MOMENTUM = 0.9
_DECAY = (0.73, 0.1)
"""The part of the rounds after which the learning rate falls along a cosine, and what is left of it in the end."""


@dataclass(frozen=True)
class FederatedTask:
    """A scenario, the form of its data, and the network that is trained where a recipe asks for another, if one does:
    without half of its units, or with an L1 penalty."""

    scenario: Scenario
    data: Arrays = _AS_THEY_ARE
    other: str = ""


def _images(seed: int, path: Path) -> Prepared:
    split = prepare(
        open_source("auto"),
        Dirichlet(0.5),
        agents=_AGENTS,
        examples_per_agent=_EXAMPLES,
        held_out=_HELD_OUT,
        seed=seed,
        out=path,
    )
    return Prepared(split.source, cnn_table(split, seed))


TASKS: Mapping[str, FederatedTask] = {
    "images": FederatedTask(
        Scenario(_images, agents=_AGENTS, steps_per_round=-(-_EXAMPLES // BATCH_SIZE), rounds=60),
        _PIXELS,
        "benchmarks.pruning.halves:half_cnn",
    ),
    "windows": FederatedTask(replace(PAIRED["window-cnn"], rounds=40)),
    "mobilenet": FederatedTask(replace(LEARNED["mobilenet"].scenario, rounds=20)),
}
"""Fashion-MNIST's images; windows of accelerometers; pictures that are made, and a MobileNet-like network."""

METHOD_TASKS: Mapping[str, FederatedTask] = {
    "images": FederatedTask(replace(PAIRED["cnn-108k"], rounds=20), other="benchmarks.pruning.halves:l1_cnn"),
    "windows": FederatedTask(replace(PAIRED["window-cnn"], rounds=16), other="benchmarks.pruning.halves:l1_window_cnn"),
}
"""Four agents each, with the networks of the tasks above."""


def task_settings(task: FederatedTask, prepared: Prepared, recipe: Recipe, seed: int, rounds: int) -> TaskSettings:
    """What task.toml would say of a recipe."""
    scenario = task.scenario
    model: dict[str, Any] = tomllib.loads(prepared.model)
    if recipe.other_network:
        model = {"file": task.other, "initial": "seed", "seed": seed}
    begin, alpha = _DECAY
    return TaskSettings(
        name="pruning",
        model=from_table(model, ModelSettings, "the benchmark's model"),
        training=Training(
            steps_per_round=scenario.steps_per_round,
            batch_size=BATCH_SIZE,
            optimizer=Sgd(scenario.learning_rate, _MOMENTUM),
            learning_rate_decay=CosineDecay(begin_round=round(rounds * begin), end_round=rounds, alpha=alpha),
        ),
        pruning=recipe.pruning(rounds),
        data=task.data,
    )
