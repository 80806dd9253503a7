"""All kinds of layers that a network may be made of, in one place; each kind is beside its like in a module of its own.

An activation is a layer of its own, and a separable convolution is a depthwise one and an ordinary one, so that each
kind has one thing to do.
"""

from __future__ import annotations

from fedprune.network.embedding import Embedding
from fedprune.network.joins import Add
from fedprune.network.layer import MAX_SIZE, Layer, LayerError, Shape
from fedprune.network.normalization import BatchNormalization
from fedprune.network.pointwise import Activation, Dropout, Function, Rescaling
from fedprune.network.products import Dense
from fedprune.network.recurrent import GRU, LSTM, Recurrent, Reversal, SimpleRNN
from fedprune.network.shapes import Concatenate, Reshape, ZeroPadding
from fedprune.network.windows import (
    MAX_WINDOW,
    Convolution,
    DepthwiseConvolution,
    GlobalPooling,
    Padding,
    Pooling,
    Statistic,
    Windowed,
)

__all__ = [
    "GRU",
    "LSTM",
    "MAX_SIZE",
    "MAX_WINDOW",
    "Activation",
    "Add",
    "AnyLayer",
    "BatchNormalization",
    "Concatenate",
    "Convolution",
    "Dense",
    "DepthwiseConvolution",
    "Dropout",
    "Embedding",
    "Function",
    "GlobalPooling",
    "Layer",
    "LayerError",
    "Padding",
    "Pooling",
    "Recurrent",
    "Rescaling",
    "Reshape",
    "Reversal",
    "Shape",
    "SimpleRNN",
    "Statistic",
    "Windowed",
    "ZeroPadding",
]

AnyLayer = (
    GRU
    | LSTM
    | Activation
    | Add
    | BatchNormalization
    | Concatenate
    | Convolution
    | Dense
    | DepthwiseConvolution
    | Dropout
    | Embedding
    | GlobalPooling
    | Pooling
    | Rescaling
    | Reshape
    | Reversal
    | SimpleRNN
    | ZeroPadding
)
"""A layer of any kind: a description has no others."""
