"""Layers that take each number by itself, and leave the shape."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from fedprune.network.layer import Layer, Numbers, Shape


class Function(StrEnum):
    """An activation function, by its Keras name."""

    RELU = "relu"
    RELU6 = "relu6"
    LEAKY_RELU = "leaky_relu"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"


class Activation(Layer, frozen=True, kw_only=True, tag="activation"):
    """A function of each number, or for softmax of the last axis. `slope` is leaky ReLU's, below 0."""

    function: Function
    slope: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if self.function is Function.SOFTMAX and not x:
            self.refuse("takes rows, not single numbers")
        if self.slope and self.function is not Function.LEAKY_RELU:
            self.refuse(f"is {self.function} with a slope, which only leaky_relu has")
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
    """In training, zero each number with the probability `rate` and divide the others by 1 - `rate`."""

    rate: Annotated[float, msgspec.Meta(ge=0, lt=1)]
