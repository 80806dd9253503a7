"""A regression of five columns, which answers in watts: the last layer brings its answer to their scale."""

import keras
from keras import layers

model = keras.Sequential(
    [
        layers.Input((5,)),
        layers.Dense(32, activation="relu"),
        layers.Dense(32, activation="relu"),
        layers.Dense(1),
        layers.Rescaling(800.0, offset=1500.0),
    ]
)
