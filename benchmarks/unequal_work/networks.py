"""The networks of the benchmark: functions that tasks name. Importing this imports TensorFlow."""

from __future__ import annotations

from typing import Any

from fedprune.keras.stack import keras

L = keras.layers


def perceptron() -> Any:
    return _network(is_normalized=False)


def normalized_perceptron() -> Any:
    return _network(is_normalized=True)


def _network(*, is_normalized: bool) -> Any:
    """One hidden layer over images of 28 x 28; its moving statistics follow in some steps."""
    x = L.Input((28, 28, 1))
    y = L.Dense(64, name="hidden")(L.Flatten()(x))
    if is_normalized:
        y = L.BatchNormalization(momentum=0.9)(y)
    return keras.Model(x, L.Dense(10, "softmax", name="head")(L.ReLU()(y)))
