"""A bag of words: each is looked up in an embedding of 1,000 ids, and the mean decides."""

import keras
from keras import layers

model = keras.Sequential(
    [
        layers.Input((16,)),
        layers.Embedding(1000, 8),
        layers.GlobalAveragePooling1D(),
        layers.Dense(16, activation="relu"),
        layers.Dense(2, activation="softmax"),
    ]
)
