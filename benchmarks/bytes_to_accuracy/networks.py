"""The networks of the problems: functions that tasks name. Importing this imports TensorFlow."""

from __future__ import annotations

from typing import Any

from benchmarks.federations import windows
from fedprune.keras.stack import keras

L = keras.layers


def wide_cnn() -> Any:
    """CNN-108k's layers with 1,049,866 parameters, for 28 x 28 pixels and ten classes."""
    return keras.Sequential(
        [
            L.Input((28, 28, 1), name="image"),
            L.Conv2D(32, 3, activation="relu", name="conv1"),
            L.MaxPooling2D(2, name="pool1"),
            L.Conv2D(64, 3, activation="relu", name="conv2"),
            L.MaxPooling2D(2, name="pool2"),
            L.Flatten(name="flatten"),
            L.Dense(640, activation="relu", name="dense"),
            L.Dense(10, name="logits"),
        ],
        name="wide-cnn",
    )


def window_net() -> Any:
    """Two convolutions over accelerometer windows, and two dense layers: no normalisation, whose statistics would
    travel whole with each update."""
    return keras.Sequential(
        [
            L.Input(windows.SHAPE, name="window"),
            L.Conv1D(32, 5, activation="relu", name="conv1"),
            L.MaxPooling1D(2, name="pool1"),
            L.Conv1D(64, 5, activation="relu", name="conv2"),
            L.MaxPooling1D(2, name="pool2"),
            L.Flatten(name="flatten"),
            L.Dense(64, activation="relu", name="dense"),
            L.Dense(len(windows.ACTIVITIES), name="logits"),
        ],
        name="window-net",
    )
