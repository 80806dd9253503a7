"""A frozen base that was trained elsewhere, and a head that the devices train."""

from pathlib import Path

import keras
from keras import layers

base = keras.models.load_model(Path(__file__).parent / "base.keras")
base.trainable = False


def make_model() -> keras.Model:
    return keras.Sequential(
        [layers.Input((32, 32, 1)), base, layers.Dense(32, activation="relu"), layers.Dense(2, activation="softmax")]
    )
