"""A small network for 49 frames of 10 cepstral coefficients, as keyword spotting takes them."""

import keras
from keras import layers

inputs = keras.Input((49, 10, 1))
x = layers.Conv2D(16, (5, 3), strides=(2, 1), padding="same", activation="relu")(inputs)
x = layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
x = layers.Conv2D(24, 1, activation="relu")(x)
x = layers.MaxPooling2D((5, 5))(x)
x = layers.Flatten()(x)
outputs = layers.Dense(3, activation="softmax")(x)
model = keras.Model(inputs, outputs)
