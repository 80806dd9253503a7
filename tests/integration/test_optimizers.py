"""The optimizers in numpy move weights as Keras' own do, step after step."""

from __future__ import annotations

import math

import numpy as np
import pytest
from keras_bundles import keras_optimizer

from edge_agent.trainers.optimizers import make_optimizer
from fedprune.keras.stack import tf
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array
from fedprune.task.training import Adam, Sgd

STEPS = 300
SHAPES = {"kernel": (7, 5), "bias": (5,), "scale": ()}
OPTIMIZERS = {
    "SGD": Sgd(0.05, 0.0),
    "momentum": Sgd(0.05, 0.9),
    "Nesterov": Sgd(0.05, 0.9, True),
    "Nesterov, little momentum": Sgd(0.2, 0.1, True),
    "Adam": Adam(),
    "Adam, large epsilon": Adam(0.01, epsilon=0.1),
    "Adam, small epsilon": Adam(0.01, epsilon=1e-10),
    "Adam, short memory": Adam(0.003, 0.5, 0.7),
}


def drawn(keyed: Keyed, shape: tuple[int, ...]) -> Array:
    return keyed.uniform(math.prod(shape), -1.0, 1.0).reshape(shape)


def gradients(step: int) -> dict[str, Array]:
    """Of many sizes, some of them zero, and with a drift that momentum can gather."""
    keyed = Keyed(step, "gradients")
    made = {name: drawn(keyed, shape) + np.float32(0.1) for name, shape in SHAPES.items()}
    sizes = 10.0 ** (np.arange(35).reshape(7, 5) % 8 - 6)
    made["kernel"] = made["kernel"] * sizes * (np.arange(5) > 0)
    return {name: np.asarray(array, np.float32) for name, array in made.items()}


@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_many_steps_equal_keras(settings: Sgd | Adam) -> None:
    """Halfway another optimizer goes on from the first one's variables."""
    weights = {name: drawn(Keyed(1, name), shape) for name, shape in SHAPES.items()}
    variables = [tf.Variable(array) for array in weights.values()]
    ours, theirs = make_optimizer(settings, SHAPES, settings.learning_rate), keras_optimizer(settings)

    for step in range(STEPS):
        if step == STEPS // 2:
            kept, ours = ours.variables(), make_optimizer(settings, SHAPES, settings.learning_rate)
            ours.load(kept)
        theirs.apply_gradients(zip(map(tf.constant, gradients(step).values()), variables, strict=True))
        ours.step(weights, gradients(step))

        for (name, found), expected in zip(weights.items(), variables, strict=True):
            told = f"{name} after {step + 1} steps"
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=5e-6, err_msg=told)
