"""Layers that take each number by itself, and leave the shape."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from fedprune.network.layer import Layer, Numbers, Shape

__all__ = ["Activation", "Dropout", "Function", "GaussianNoise", "PointwiseLayer", "Rescaling"]


class Function(StrEnum):
    """An activation function, by its name in Keras 3. `GELU_TANH` is GELU as tanh approximates it."""

    RELU = "relu"
    RELU6 = "relu6"
    LEAKY_RELU = "leaky_relu"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"
    ELU = "elu"
    EXPONENTIAL = "exponential"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    HARD_SIGMOID = "hard_sigmoid"
    HARD_SWISH = "hard_swish"
    SELU = "selu"
    SOFTPLUS = "softplus"
    SOFTSIGN = "softsign"
    SWISH = "swish"


SLOPED = (Function.ELU, Function.LEAKY_RELU)
"""Functions that have a slope of their own."""


class Activation(Layer, frozen=True, kw_only=True, tag="activation"):
    """A function of each number, or for softmax of the last axis.

    `slope` is that of leaky ReLU below 0, and of ELU just below 0: Keras' `alpha` of both.
    """

    function: Function
    slope: Annotated[float, msgspec.Meta(ge=0, le=16)] = 0.0

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if self.function is Function.SOFTMAX and not x:
            self.refuse("takes rows, not single numbers")
        if self.slope and self.function not in SLOPED:
            self.refuse(f"is {self.function} with a slope, which only {', '.join(SLOPED)} have")
        return x


class Rescaling(Layer, frozen=True, kw_only=True, tag="rescaling"):
    """Times `scale`, plus `offset`: each one number, or one for each channel."""

    scale: Numbers
    offset: Numbers

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if any(len(numbers) not in (1, *x[-1:]) for numbers in (self.scale, self.offset)):
            self.refuse(f"has numbers for other channels than those of the shape {list(x)}")
        return x


class Dropout(Layer, frozen=True, kw_only=True, tag="dropout"):
    """In training, zero each number with the probability `rate` and divide the others by 1 - `rate`.

    With `whole_channels` all places of a channel go together.
    """

    rate: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    whole_channels: bool = False

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if self.whole_channels and len(x) < 2:
            self.refuse(f"takes places and channels, not the shape {list(x)}")
        return x


class GaussianNoise(Layer, frozen=True, kw_only=True, tag="gaussian-noise"):
    """In training, add normal noise of a standard deviation, or with `relative` that times the number itself."""

    deviation: Annotated[float, msgspec.Meta(ge=0, le=1e3)]
    relative: bool = False


PointwiseLayer = Activation | Dropout | GaussianNoise | Rescaling
"""A layer of any kind in this module."""
