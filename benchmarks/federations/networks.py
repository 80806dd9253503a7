"""The networks of the federations: functions that tasks name. Importing this imports TensorFlow."""

from __future__ import annotations

from typing import Any

from benchmarks.federations import keywords, pictures, sentences, utterances, windows
from fedprune.keras.stack import keras

L = keras.layers

_MOMENTUM = 0.9
"""Of moving statistics, which follow ten times as fast as Keras' own: with a dozen steps a round those would be what
the network was many rounds ago."""


def window_cnn() -> Any:
    """Conv-ReLU-BN, three times, over accelerometer windows."""
    x = y = L.Input(windows.SHAPE)
    for filters in (32, 64, 64):
        y = L.Conv1D(filters, 5, padding="same", activation="relu")(y)
        y = L.MaxPooling1D(2)(L.BatchNormalization(momentum=_MOMENTUM)(y))
    return keras.Model(x, L.Dense(len(windows.ACTIVITIES), "softmax")(L.GlobalAveragePooling1D()(y)))


def ds_cnn() -> Any:
    """MLPerf Tiny's network for keywords (Banbury et al. 2021, arXiv 2106.07597), without its dropout."""
    x = L.Input(keywords.SHAPE)
    y = _relu(L.Conv2D(64, (10, 4), strides=2, padding="same")(x))
    for _ in range(4):
        y = _relu(L.DepthwiseConv2D(3, padding="same")(y))
        y = _relu(L.Conv2D(64, 1)(y))
    return keras.Model(x, L.Dense(keywords.WORDS, "softmax")(L.GlobalAveragePooling2D()(y)))


def small_mobilenet() -> Any:
    """A MobileNetV1 (Howard et al. 2017, arXiv 1704.04861) of width 1/4, with two of its six blocks of 128 channels."""
    x = L.Input(pictures.SHAPE)
    y = _relu(L.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x))
    for filters, strides in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (128, 1)):
        y = _relu(L.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(y))
        y = _relu(L.Conv2D(filters, 1, use_bias=False)(y))
    return keras.Model(x, L.Dense(len(pictures.CLASSES), "softmax")(L.GlobalAveragePooling2D()(y)))


def gru_reader() -> Any:
    """Words through a GRU, which stops where a sentence ends."""
    ids = L.Input((sentences.LENGTH,), dtype="int32")
    words = L.Embedding(sentences.IDS, 16, mask_zero=True)(ids)
    return keras.Model(ids, L.Dense(len(sentences.TOPICS), "softmax")(L.GRU(24)(words)))


def transformer_reader() -> Any:
    """A convolution tells the attention which words are neighbours; one block that normalises first (Xiong et al. 2020,
    "On layer normalization in the Transformer architecture", arXiv 2002.04745)."""
    width = 24
    ids = L.Input((sentences.LENGTH,), dtype="int32")
    x = L.Conv1D(width, 3, padding="same")(L.Embedding(sentences.IDS, width)(ids))
    y = L.LayerNormalization()(x)
    x = L.Add()([x, L.MultiHeadAttention(2, width // 2)(y, y)])
    y = L.Dense(2 * width, "gelu")(L.LayerNormalization()(x))
    x = L.LayerNormalization()(L.Add()([x, L.Dense(width)(y)]))
    return keras.Model(ids, L.Dense(len(sentences.TOPICS), "softmax")(L.GlobalAveragePooling1D()(x)))


def keyword_cnn() -> Any:
    """Two convolutions over a log-mel spectrogram."""
    x = L.Input(utterances.SHAPE)
    y = L.Conv2D(16, 5, strides=2, padding="same", activation="relu")(x)
    y = L.Conv2D(24, 3, strides=2, padding="same", activation="relu")(y)
    return keras.Model(x, L.Dense(len(utterances.WORDS), "softmax")(L.Flatten()(y)))


def _relu(x: Any) -> Any:
    return L.ReLU()(L.BatchNormalization(momentum=_MOMENTUM)(x))
