"""Trains a base on the digits, on the workstation, and saves it as base.keras."""

from pathlib import Path

import keras
import numpy as np
from keras import layers
from PIL import Image

files = sorted(Path("digits").glob("*/*.png"))
names = sorted({file.parent.name for file in files})
x = np.stack([np.asarray(Image.open(file), np.float32)[..., None] / 255 for file in files])
y = np.array([names.index(file.parent.name) for file in files])

base = keras.Sequential(
    [
        layers.Input((32, 32, 1)),
        layers.Conv2D(12, 3, strides=2, padding="same", activation="relu"),
        layers.Conv2D(24, 3, strides=2, padding="same", activation="relu"),
    ],
    name="base",
)
model = keras.Sequential([base, layers.Flatten(), layers.Dense(len(names), activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(x, y, epochs=6, verbose=2)
base.save("base.keras")
