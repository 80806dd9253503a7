"""Trains a base on the cloths of which there are many, on the workstation, and saves it as base.keras."""

from pathlib import Path

import keras
import numpy as np
from keras import layers
from PIL import Image

files = sorted(Path("many").glob("*/*.png"))
names = sorted({file.parent.name for file in files})
x = np.stack([np.asarray(Image.open(file), np.float32)[..., None] / 255 for file in files])
y = np.array([names.index(file.parent.name) for file in files])

base = keras.Sequential(
    [
        layers.Input((32, 32, 1)),
        layers.Conv2D(12, 5, strides=2, activation="relu"),
        layers.Conv2D(24, 5, strides=2, activation="relu"),
        layers.GlobalMaxPooling2D(),
    ],
    name="base",
)
model = keras.Sequential([base, layers.Dense(len(names), activation="softmax")])
model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x, y, epochs=12, verbose=2)
base.save("base.keras")
