"""A regression of five columns. Neither they nor its answers need be scaled: the task normalises both."""

import keras
from keras import layers

model = keras.Sequential(
    [
        layers.Input((5,)),
        layers.Dense(32, activation="relu"),
        layers.Dense(32, activation="relu"),
        layers.Dense(1),
    ]
)
