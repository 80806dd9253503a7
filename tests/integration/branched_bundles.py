"""A model of several inputs and outputs and a plain one, bundles of them as they are built, and examples for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.build import build_task
from export.settings import ConstantSettings, EvaluationSettings, ModelSettings, PruningSettings, TaskSettings
from fedprune.data import Dataset, fit_to
from fedprune.keras.stack import keras
from fedprune.model.losses import Loss
from fedprune.model.randomness import Keyed
from fedprune.task.bundle import Bundle, read_bundle
from fedprune.task.outputs import OutputLoss
from fedprune.task.training import Training

L = keras.layers
SPARSE, ONE_HOT, BINARY, SQUARED = Loss
EXAMPLES, WORDS, TOPICS = 40, 9, 3


def branched() -> Any:
    """A picture and words in; a topic, which is smoothed, whether a thing is there, and a quantity for each row out.
    Inputs and outputs come in another order than that of their names."""
    picture, words = L.Input((6, 6, 2), name="picture"), L.Input((4,), dtype="int32", name="a-word")
    seen = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, name="seen")(picture)))
    read = L.GlobalAveragePooling1D()(L.Embedding(WORDS, 5, name="words")(words))
    both = L.Concatenate()([L.GlobalAveragePooling2D()(seen), read])
    rows = L.Dense(1, name="amount")(L.Reshape((4, 16))(seen))
    outputs = [L.Dense(TOPICS, "softmax", name="topic")(both), L.Dense(1, name="there")(both), rows]
    return keras.Model([picture, words], outputs, name="branched")


LOSSES = {
    "topic": OutputLoss(SPARSE, label_smoothing=0.2),
    "there": OutputLoss(BINARY, weight=0.25, class_weights=(1.0, 3.0)),
    "amount": OutputLoss(SQUARED, weight=2.0),
}


NAMES = [
    *("topic/accuracy", "topic/f1_score", "there/accuracy", "there/auc"),
    *("amount/root_mean_squared_error", "amount/mean_absolute_error"),
]


def plain() -> Any:
    layers = [L.Dense(5, "tanh", name="hidden"), L.Dense(TOPICS, "softmax", name="topic")]
    return keras.Sequential([L.Input((4,)), *layers], name="plain")


def built(model: Any, training: Training, path: Path, metrics: Any = {}) -> Bundle:  # noqa: B006 - nobody changes it
    """As it is built from a file, proofs and all."""
    model.save(path / "model.keras")
    pruning = PruningSettings(ConstantSettings(target_sparsity=0.0, begin_step=4, frequency=4))
    task = TaskSettings(
        "t", ModelSettings(file="model.keras"), training, pruning, evaluation=EvaluationSettings(metrics)
    )
    return read_bundle(build_task(task, path))


def examples(weight: bool) -> Dataset:
    keyed = Keyed(0, "examples")
    picture = keyed.uniform(EXAMPLES * 72, -1.0, 1.0).reshape(EXAMPLES, 6, 6, 2)
    words = (keyed.integers(EXAMPLES * 4) % np.uint64(WORDS)).astype(np.int32).reshape(EXAMPLES, 4)
    topic = (words[:, 0] % TOPICS).astype(np.int64)
    there = (picture[:, 0, 0, :1] > 0).astype(np.float32)
    amount = np.stack([picture[:, row, row, 0] for row in range(4)], axis=1)[..., np.newaxis]
    counts = keyed.uniform(EXAMPLES, 0.0, 2.0) if weight else None
    x = {"x_a-word": words, "x_picture": picture}
    return Dataset(x, {"y_topic": topic, "y_there": there, "y_amount": amount}, weight=counts)


def fitted(data: Dataset, bundle: Bundle) -> Dataset:
    return fit_to(data, bundle.network.input_forms, bundle.task.output_forms)


def joined(parts: Sequence[Dataset]) -> Dataset:
    """The examples of all parts, without weights."""
    x, y = (
        {name: np.concatenate([arrays[name] for arrays in each]) for name in each[0]}
        for each in ([part.inputs for part in parts], [part.labels for part in parts])
    )
    return Dataset(x, y)
