"""CNN-108k, as fedprune's `export/models.py` has it, and a trainer of it: SGD with momentum.

Keras is imported by its own name: what builds fedprune's tasks asks TensorFlow for the old one, by a variable that
children inherit.
"""

from functools import cache
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

MOMENTUM = 0.9
_MEAN, _DEVIATION = np.float32(0.286), np.float32(0.353)
"""Of Fashion-MNIST's pixels, which the files have as fractions."""


def load(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images as CNN-108k takes them, and their classes."""
    with np.load(file) as arrays:
        x, y = arrays["x"], arrays["y"]
    return (x - _MEAN) / _DEVIATION, y


class Trainer:
    """One model, which all rounds of a process share: its steps are traced once."""

    def __init__(self) -> None:
        layers = keras.layers
        self.model = keras.Sequential(
            [
                layers.Input((28, 28, 1)),
                layers.Conv2D(16, 3, activation="relu"),
                layers.MaxPooling2D(2),
                layers.Conv2D(32, 3, activation="relu"),
                layers.MaxPooling2D(2),
                layers.Flatten(),
                layers.Dense(128, activation="relu"),
                layers.Dense(10),
            ]
        )
        self._loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._slots = [tf.Variable(tf.zeros_like(weight)) for weight in self.model.trainable_variables]

    def train(self, weights: list[np.ndarray], x: np.ndarray, y: np.ndarray, batches: np.ndarray, rate: float) -> None:
        """Make a step of each batch, from these weights and without momentum at first."""
        self.model.set_weights(weights)
        for slot in self._slots:
            slot.assign(tf.zeros_like(slot))
        for batch in batches:
            self._step(tf.constant(x[batch]), tf.constant(y[batch]), tf.constant(rate, tf.float32))

    @tf.function
    def _step(self, x: tf.Tensor, y: tf.Tensor, rate: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = self._loss(y, self.model(x, training=True))
        variables = self.model.trainable_variables
        for variable, slot, slope in zip(variables, self._slots, tape.gradient(loss, variables), strict=True):
            slot.assign(MOMENTUM * slot - rate * slope)
            variable.assign_add(slot)

    def accuracy(self, weights: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
        self.model.set_weights(weights)
        return float((self.model.predict(x, batch_size=1000, verbose=0).argmax(-1) == y).mean())


@cache
def trainer() -> Trainer:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return Trainer()
