"""All kinds of layers that a network may be made of, in one place; each kind is beside its like in a module of its own.

An activation is a layer of its own, and a separable convolution is a depthwise one and an ordinary one, so that each
kind has one thing to do.
"""

from __future__ import annotations

from fedprune.network.attention import MultiHeadAttention
from fedprune.network.embedding import Embedding
from fedprune.network.joins import Add, Merge, Operation
from fedprune.network.layer import MAX_SIZE, Layer, LayerError, Shape
from fedprune.network.masks import IdMask, StepMask
from fedprune.network.normalization import BatchNormalization, GroupNormalization, LayerNormalization, UnitNormalization
from fedprune.network.pointwise import Activation, Dropout, Function, GaussianNoise, Rescaling
from fedprune.network.products import Dense, Dot
from fedprune.network.recurrent import GRU, LSTM, Recurrent, Reversal, SimpleRNN
from fedprune.network.shapes import Concatenate, Cropping, Permute, Reshape, Upsampling, ZeroPadding
from fedprune.network.windows import (
    Convolution,
    DepthwiseConvolution,
    Dilated,
    GlobalPooling,
    Padding,
    Pooling,
    Statistic,
    TransposedConvolution,
    Windowed,
)

__all__ = [
    "GRU",
    "LSTM",
    "MAX_SIZE",
    "Activation",
    "Add",
    "AnyLayer",
    "BatchNormalization",
    "Concatenate",
    "Convolution",
    "Cropping",
    "Dense",
    "DepthwiseConvolution",
    "Dilated",
    "Dot",
    "Dropout",
    "Embedding",
    "Function",
    "GaussianNoise",
    "GlobalPooling",
    "GroupNormalization",
    "IdMask",
    "Layer",
    "LayerError",
    "LayerNormalization",
    "Merge",
    "MultiHeadAttention",
    "Operation",
    "Padding",
    "Permute",
    "Pooling",
    "Recurrent",
    "Rescaling",
    "Reshape",
    "Reversal",
    "Shape",
    "SimpleRNN",
    "Statistic",
    "StepMask",
    "TransposedConvolution",
    "UnitNormalization",
    "Upsampling",
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
    | Cropping
    | Dense
    | DepthwiseConvolution
    | Dot
    | Dropout
    | Embedding
    | GaussianNoise
    | GlobalPooling
    | GroupNormalization
    | IdMask
    | LayerNormalization
    | Merge
    | MultiHeadAttention
    | Permute
    | Pooling
    | Rescaling
    | Reshape
    | Reversal
    | SimpleRNN
    | StepMask
    | TransposedConvolution
    | UnitNormalization
    | Upsampling
    | ZeroPadding
)
"""A layer of any kind: a description has no others."""
