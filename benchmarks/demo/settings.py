"""The options of a demo, and the task that it makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from benchmarks.task_file import BATCH_SIZE, frugal_course, task_file
from fedprune.data.prepare import SplitSummary
from fedprune.errors import ConfigurationError

HELD_OUT_EXAMPLES = 10_000


@dataclass(frozen=True)
class DemoSettings:
    """The demo's options. `broker` is embedded, mosquitto, or an mqtt:// address; `federation` is its name there."""

    agents: int
    rounds: int
    examples_per_agent: int
    partition: str
    seed: int
    sparsity: float
    units: float
    codec: str
    preset: str | None
    mask: str
    trainer: str
    broker: str
    federation: str
    data: str
    out: Path


def task_toml(settings: DemoSettings, split: SplitSummary) -> str:
    """The task: CNN-108k, one local epoch a round."""
    return task_file(
        "demo",
        cnn_table(split, settings.seed),
        steps_per_round=math.ceil(min(part.examples for part in split.agents) / BATCH_SIZE),
        rounds=settings.rounds,
        sparsity=settings.sparsity,
        units=settings.units,
        mask=settings.mask,
        **(frugal_course(settings.sparsity) if settings.preset else {}),
    )


def cnn_table(split: SplitSummary, seed: int) -> str:
    """The ``[model]`` table of CNN-108k for these data. Raises `ConfigurationError` if they are no labelled images."""
    return f"""\
builtin = "cnn-108k"
input_shape = {_image_shape(split.input_shapes.get("x", ()))}
outputs = {_outputs(split)}
initial = "seed"
seed = {seed}"""


def _outputs(split: SplitSummary) -> int:
    """One for each class. Raises `ConfigurationError` for data without classes."""
    if not split.classes:
        raise ConfigurationError(
            "the demo's model is a classifier, y does not hold class numbers; "
            "build a task of your own with `fedprune task build`"
        )
    return max(2, split.classes)


def _image_shape(shape: tuple[int, ...]) -> list[int]:
    """Height, width and channels of what the demo's CNN sees. Raises `ConfigurationError` for other data."""
    if len(shape) == 2:
        return [*shape, 1]
    if len(shape) == 3:
        return list(shape)
    raise ConfigurationError(
        f"the demo's model is a CNN for images, x has examples of shape {list(shape)}; "
        "build a task of your own with `fedprune task build`"
    )
