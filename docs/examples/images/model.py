"""A small convolutional network for pictures of 32 x 32 pixels."""

import keras
from keras import layers

model = keras.Sequential(
    [
        layers.Input((32, 32, 3)),
        layers.Conv2D(16, 5, strides=2, activation="relu"),
        layers.Conv2D(32, 5, strides=2, activation="relu"),
        layers.GlobalMaxPooling2D(),
        layers.Dense(3, activation="softmax"),
    ]
)
