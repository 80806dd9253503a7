"""All kinds of layers that a network may be made of, in one place; each kind is beside its like in a module of its own.

A module's own list says which these are, so that a new kind beside others is news to its module alone.

An activation is a layer of its own, and a separable convolution is a depthwise one and an ordinary one, so that each
kind has one thing to do.
"""
# ruff: noqa: F403 - what the modules list is read from here

from __future__ import annotations

from fedprune.network import (
    attention,
    embedding,
    joins,
    masks,
    normalization,
    pointwise,
    products,
    recurrent,
    shapes,
    windows,
)
from fedprune.network.attention import *
from fedprune.network.embedding import *
from fedprune.network.joins import *
from fedprune.network.layer import MAX_SIZE as MAX_SIZE
from fedprune.network.layer import Layer as Layer
from fedprune.network.layer import LayerError as LayerError
from fedprune.network.layer import Shape as Shape
from fedprune.network.masks import *
from fedprune.network.normalization import *
from fedprune.network.pointwise import *
from fedprune.network.products import *
from fedprune.network.recurrent import *
from fedprune.network.shapes import *
from fedprune.network.windows import *

AnyLayer = (
    attention.AttentionLayer
    | embedding.EmbeddingLayer
    | joins.JoiningLayer
    | masks.MaskingLayer
    | normalization.NormalizationLayer
    | pointwise.PointwiseLayer
    | products.ProductLayer
    | recurrent.RecurrentLayer
    | shapes.ShapeLayer
    | windows.WindowedLayer
)
"""A layer of any kind: a description has no others."""
