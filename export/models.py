"""The built-in models. Importing this module imports TensorFlow."""

from __future__ import annotations

from typing import Any

from fedprune.errors import TaskError
from fedprune.keras.stack import keras

_SMALLEST = 10
"""Pixels a side: what two unpadded 3x3 convolutions, each followed by a 2x2 pooling, leave one pixel of."""


def cnn_108k(input_shape: tuple[int, ...], outputs: int) -> Any:
    """Two convolutions and two dense layers, ending in logits: 108,618 parameters for 28x28x1 and 10 outputs.

    `input_shape` is (height, width, channels). Raises `TaskError` for anything else, or too small an image.
    """
    if len(input_shape) != 3 or min(input_shape[:2]) < _SMALLEST:
        raise TaskError(
            f"cnn-108k: input_shape {list(input_shape)} does not fit: it takes images, [height, width, channels], "
            f"of at least {_SMALLEST}x{_SMALLEST} pixels"
        )
    layers = keras.layers
    # Layers are named, so that equal tasks have equal bytes: Keras would number them through the process.
    return keras.Sequential(
        [
            layers.Input(input_shape, name="image"),
            layers.Conv2D(16, 3, activation="relu", name="conv1"),
            layers.MaxPooling2D(2, name="pool1"),
            layers.Conv2D(32, 3, activation="relu", name="conv2"),
            layers.MaxPooling2D(2, name="pool2"),
            layers.Flatten(name="flatten"),
            layers.Dense(128, activation="relu", name="dense"),
            layers.Dense(outputs, name="logits"),
        ],
        name="cnn-108k",
    )
