"""The zoo's networks of series and of text, as people write them in tf_keras. Importing this module imports TensorFlow.

Series are windows of 64 or 128 samples of 6 sensors, in 6 classes; texts are 32 or 64 token ids, in 4 classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedprune.keras.stack import keras

L = keras.layers

_SENSORS, _ACTIVITIES = 6, 6
_TOPICS = 4
_WIDTH, _HEADS = 32, 2
"""Of the Transformers."""


def tcn(drops: bool) -> Any:
    """Residual blocks of two dilated causal convolutions (Bai et al. 2018, "An empirical evaluation of generic
    convolutional and recurrent networks for sequence modeling", arXiv 1803.01271)."""
    x = y = L.Input((128, _SENSORS))
    for dilation in (1, 2, 4, 8):
        z = y
        for _ in range(2):
            z = L.Conv1D(24, 3, padding="causal", dilation_rate=dilation, activation="relu")(z)
            z = L.SpatialDropout1D(0.1 if drops else 0.0)(z)
        shortcut = y if y.shape[-1] == z.shape[-1] else L.Conv1D(24, 1)(y)
        y = L.ReLU()(L.Add()([shortcut, z]))
    return keras.Model(x, L.Dense(_ACTIVITIES)(L.GlobalAveragePooling1D()(y)))


def lstm(_: bool) -> Any:
    return _of_windows(L.LSTM(64), steps=128)


def gru(_: bool) -> Any:
    return _of_windows(L.GRU(64), steps=128)


def cnn_lstm(_: bool) -> Any:
    """The LSTM goes through what two convolutions make of the samples, a quarter as many steps."""
    layers = [layer for _ in range(2) for layer in (L.Conv1D(32, 5, padding="same", activation="relu"), L.MaxPool1D())]
    return _of_windows(*layers, L.LSTM(32), steps=128)


def bi_gru(_: bool) -> Any:
    return _of_windows(L.Bidirectional(L.GRU(24, return_sequences=True)), L.GlobalMaxPooling1D(), steps=64)


def embedding_pooling(_: bool) -> Any:
    """A bag of words (Joulin et al. 2017, "Bag of tricks for efficient text classification", arXiv 1607.01759)."""
    return _of_text(4000, 16, L.GlobalAveragePooling1D(), L.Dense(16, "relu"), tokens=64)


def embedding_gru(_: bool) -> Any:
    return _of_text(2000, 16, L.GRU(32), tokens=32)


def transformer_text(drops: bool) -> Any:
    """A convolution tells the attention which tokens are neighbours."""
    x = L.Input((64,), dtype="int32")
    y = L.Conv1D(_WIDTH, 3, padding="same")(L.Embedding(1000, _WIDTH)(x))
    return keras.Model(x, _attentive(y, blocks=1, drops=drops, classes=_TOPICS))


def transformer_sensors(drops: bool) -> Any:
    """Over 32 patches of 4 samples."""
    x = L.Input((128, _SENSORS))
    y = L.Conv1D(_WIDTH, 4, strides=4)(x)
    return keras.Model(x, _attentive(y, blocks=2, drops=drops, classes=_ACTIVITIES))


def sequence_autoencoder(_: bool) -> Any:
    """From 32 samples to 16 numbers and back."""
    steps = 32
    layers = [L.LSTM(16), L.RepeatVector(steps), L.LSTM(16, return_sequences=True)]
    return keras.Sequential([L.Input((steps, _SENSORS)), *layers, L.TimeDistributed(L.Dense(_SENSORS))])


def tc_resnet(_: bool) -> Any:
    """For 49 x 10 spectral coefficients: keywords, by convolutions over time alone (Choi et al. 2019, "Temporal
    convolution for real-time keyword spotting on mobile devices", arXiv 1904.03814)."""
    x = L.Input((49, 10))
    y = L.Conv1D(16, 3, padding="same", use_bias=False)(x)
    for filters in (24, 32, 48):
        shortcut = L.ReLU()(L.BatchNormalization()(L.Conv1D(filters, 1, strides=2, use_bias=False)(y)))
        z = L.Conv1D(filters, 9, strides=2, padding="same", use_bias=False)(y)
        z = L.Conv1D(filters, 9, padding="same", use_bias=False)(L.ReLU()(L.BatchNormalization()(z)))
        y = L.ReLU()(L.Add()([shortcut, L.BatchNormalization()(z)]))
    return keras.Model(x, L.Dense(12, "softmax")(L.GlobalAveragePooling1D()(y)))


def _of_windows(*layers: Any, steps: int) -> Any:
    return keras.Sequential([L.Input((steps, _SENSORS)), *layers, L.Dense(_ACTIVITIES)])


def _of_text(vocabulary: int, width: int, *layers: Any, tokens: int) -> Any:
    ids = L.Input((tokens,), dtype="int32")
    return keras.Sequential([ids, L.Embedding(vocabulary, width), *layers, L.Dense(_TOPICS, "softmax")])


def _attentive(x: Any, *, blocks: int, drops: bool, classes: int) -> Any:
    """Blocks that normalise first (Xiong et al. 2020, "On layer normalization in the Transformer architecture", arXiv
    2002.04745), and the mean of what they make."""
    rate = 0.1 if drops else 0.0
    for _ in range(blocks):
        y = L.LayerNormalization()(x)
        x = L.Add()([x, L.MultiHeadAttention(_HEADS, _WIDTH // _HEADS, dropout=rate)(y, y)])
        y = L.Dense(2 * _WIDTH, "gelu")(L.LayerNormalization()(x))
        x = L.Add()([x, L.Dropout(rate)(L.Dense(_WIDTH)(y))])
    return L.Dense(classes)(L.GlobalAveragePooling1D()(L.LayerNormalization()(x)))


SEQUENCES: dict[str, Callable[[bool], Any]] = {
    "tcn": tcn,
    "lstm": lstm,
    "gru": gru,
    "cnn-lstm": cnn_lstm,
    "bi-gru": bi_gru,
    "embedding-pooling": embedding_pooling,
    "embedding-gru": embedding_gru,
    "transformer-text": transformer_text,
    "transformer-sensors": transformer_sensors,
    "tc-resnet-8": tc_resnet,
}
"""Makers of networks, by name: they take whether dropout drops anything."""
