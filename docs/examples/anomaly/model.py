"""An autoencoder: it learns to give back what it was given, and fails at what it never saw."""

import keras
from keras import layers

model = keras.Sequential(
    [
        layers.Input((64,)),
        layers.Dense(32, activation="relu"),
        layers.Dense(6, activation="relu"),
        layers.Dense(32, activation="relu"),
        layers.Dense(64, activation="sigmoid"),
    ]
)
