"""A task's network trained with everybody's examples in one place, which a federation is to be compared with.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedprune.data import load_npz
from fedprune.keras.model import build_model, keras_loss
from fedprune.keras.stack import keras
from fedprune.task.bundle import load_bundle
from fedprune.task.training import Sgd

_AT_ONCE = 200


def train_centrally(bundle: Path, data: Path, epochs: int, seed: int) -> tuple[float, ...]:
    """The held-out accuracy after each epoch of tf_keras' own `fit`, from the task's initial weights, with its
    optimizer and batch size; a fraction each.
    """
    task = load_bundle(bundle)
    keras.utils.set_random_seed(seed)
    model, variables = build_model(task.network, task.task.table)
    for name, value in task.initial_weights().items():
        variables[name].assign(value)
    optimizer = task.task.training.optimizer
    assert isinstance(optimizer, Sgd), "the benchmark's tasks have SGD"
    (objective,) = task.task.objectives
    model.compile(keras.optimizers.SGD(optimizer.learning_rate, optimizer.momentum), keras_loss(objective))
    everybody = [load_npz(path) for path in sorted(data.glob("agent-*.npz"))]
    x, y = np.concatenate([each.x for each in everybody]), np.concatenate([each.y for each in everybody])
    held_out = load_npz(data / "held-out.npz")
    accuracies = []
    for _ in range(epochs):
        model.fit(x, y, task.task.training.batch_size, verbose=0)
        outputs = model.predict(held_out.x, _AT_ONCE, verbose=0)
        accuracies.append(float((outputs.argmax(axis=1) == held_out.y).mean()))
    return tuple(accuracies)
