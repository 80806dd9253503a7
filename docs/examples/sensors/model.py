"""A 1-D convolutional network for windows of 64 rows of three axes."""

import keras
from keras import layers


def make_model() -> keras.Model:
    return keras.Sequential(
        [
            layers.Input((64, 3)),
            layers.Conv1D(16, 5, strides=2, activation="relu"),
            layers.Conv1D(32, 5, strides=2, activation="relu"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3),
        ]
    )
