"""Layers with windows that move over one axis (Keras' ...1D) or over two, told apart by the length of their `size`."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated

import msgspec

from fedprune.network.layer import Count, Layer, Name, Shape, Sizes

__all__ = [
    "Convolution",
    "DepthwiseConvolution",
    "Dilated",
    "GlobalPooling",
    "Padding",
    "Pooling",
    "Statistic",
    "TransposedConvolution",
    "Windowed",
    "WindowedLayer",
]

_MAX_WINDOW = 2**10
"""Places that a window (of a convolution or pooling) may see at once."""
_MAX_REACH = 2**16
"""Places from the first that a window sees to the last."""


class Padding(StrEnum):
    """The zeros around what windows move over: none, as many as keep the size, or all of them in front."""

    VALID = "valid"
    SAME = "same"
    CAUSAL = "causal"


class Statistic(StrEnum):
    """What a pooling takes of the places that it sees."""

    MAX = "max"
    MEAN = "mean"


class Windowed(Layer, frozen=True, kw_only=True):
    """A layer with windows of `size` that move by `strides` over one axis or two."""

    size: Sizes
    strides: Sizes
    padding: Padding = Padding.VALID

    def windows_over(self, inputs: tuple[Shape, ...]) -> Shape:
        """The places of the windows: rows and columns, or columns alone."""
        (x,) = self.take(inputs, 1)
        self._check()
        reach = self.reach()
        if self.padding is Padding.CAUSAL and len(self.size) != 1:
            self.refuse("has causal padding, which only layers over one axis have")
        if len(x) != len(self.size) + 1:
            self.refuse(f"takes {len(self.size) + 1} axes, not the shape {list(x)}")
        places = []
        for length, size, stride in zip(x, reach, self.strides, strict=False):
            if self.padding is Padding.VALID and length < size:
                self.refuse(f"has windows of {list(reach)} in a shape of {list(x)}")
            places.append((length - size) // stride + 1 if self.padding is Padding.VALID else -(-length // stride))
        return tuple(places)

    def reach(self) -> Shape:
        """The number of places from the first that a window sees to the last."""
        return self.size

    def _check(self) -> None:
        if len(self.size) != len(self.strides) or math.prod(self.size) > _MAX_WINDOW:
            self.refuse(f"has windows of {list(self.size)} that move by {list(self.strides)}")


class Dilated(Windowed, frozen=True, kw_only=True):
    """A layer whose windows see every `dilation`-th place, along each axis; all where it is empty."""

    dilation: Annotated[tuple[Count, ...], msgspec.Meta(max_length=2)] = ()

    @property
    def is_dilated(self) -> bool:
        return any(apart > 1 for apart in self.dilation)

    def reach(self) -> Shape:
        apart = self.dilation or (1,) * len(self.size)
        if len(apart) != len(self.size) or (self.is_dilated and max(self.strides) > 1):
            self.refuse(f"has a dilation of {list(apart)} and strides of {list(self.strides)}, one of which must be 1")
        reach = tuple((size - 1) * each + 1 for size, each in zip(self.size, apart, strict=True))
        if max(reach) > _MAX_REACH:
            self.refuse(f"has windows of {list(self.size)} with a dilation of {list(apart)}: beyond {_MAX_REACH}")
        return reach


class Convolution(Dilated, frozen=True, kw_only=True, tag="convolution"):
    """Keras' Conv1D and Conv2D: `kernel` `[*size, channels / groups, filters]`, `bias` `[filters]`."""

    filters: Count
    kernel: Name
    bias: Name | None = None
    groups: Count = 1

    def output(self, *inputs: Shape) -> Shape:
        places = self.windows_over(inputs)
        if inputs[0][-1] % self.groups or self.filters % self.groups:
            self.refuse(f"has {self.groups} groups, which do not divide {inputs[0][-1]} channels and its filters")
        return (*places, self.filters)

    def tensors(self, *inputs: Shape) -> dict[str, Shape]:
        kernel = (*self.size, inputs[0][-1] // self.groups, self.filters)
        return self.named((self.kernel, kernel), (self.bias, (self.filters,)))


class TransposedConvolution(Windowed, frozen=True, kw_only=True, tag="transposed-convolution"):
    """Keras' Conv1DTranspose and Conv2DTranspose: `kernel` `[*size, filters, channels]`, `bias` `[filters]`."""

    filters: Count
    kernel: Name
    bias: Name | None = None

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        self._check()
        if self.padding is Padding.CAUSAL:
            self.refuse("is a transposed convolution, which has no causal padding")
        if len(x) != len(self.size) + 1:
            self.refuse(f"takes {len(self.size) + 1} axes, not the shape {list(x)}")
        more = 1 if self.padding is Padding.VALID else 0
        places = [
            length * stride + more * max(size - stride, 0)
            for length, size, stride in zip(x, self.size, self.strides, strict=False)
        ]
        return (*places, self.filters)

    def tensors(self, *inputs: Shape) -> dict[str, Shape]:
        return self.named((self.kernel, (*self.size, self.filters, inputs[0][-1])), (self.bias, (self.filters,)))


class DepthwiseConvolution(Dilated, frozen=True, kw_only=True, tag="depthwise-convolution"):
    """Keras' DepthwiseConv1D and DepthwiseConv2D: `kernel` `[*size, channels, multiplier]`."""

    multiplier: Count
    kernel: Name
    bias: Name | None = None

    def output(self, *inputs: Shape) -> Shape:
        if self.padding is Padding.CAUSAL:
            self.refuse("is a depthwise convolution, which has no causal padding in Keras; pad before it")
        return (*self.windows_over(inputs), inputs[0][-1] * self.multiplier)

    def tensors(self, *inputs: Shape) -> dict[str, Shape]:
        channels = inputs[0][-1]
        kernel = (*self.size, channels, self.multiplier)
        return self.named((self.kernel, kernel), (self.bias, (channels * self.multiplier,)))


class Pooling(Windowed, frozen=True, kw_only=True, tag="pooling"):
    """The maximum or mean of what each window sees, padding left out."""

    statistic: Statistic

    def output(self, *inputs: Shape) -> Shape:
        if self.padding is Padding.CAUSAL:
            self.refuse("is a pooling, which has no causal padding")
        return (*self.windows_over(inputs), inputs[0][-1])


class GlobalPooling(Layer, frozen=True, kw_only=True, tag="global-pooling"):
    """The maximum or mean over all places; with `keep_axes` these stay, with size 1.

    A mean over steps may take their mask as a second input: it is that of the others, and 0 if there are none.
    """

    statistic: Statistic
    keep_axes: bool = False

    def output(self, *inputs: Shape) -> Shape:
        x = self.take_steps(inputs)
        if len(inputs) > 1 and (self.statistic is not Statistic.MEAN or len(x) != 2):
            self.refuse(f"takes a mask where it is no mean over steps, but the {self.statistic} of {list(x)}")
        if len(x) not in (2, 3):
            self.refuse(f"takes channels and one or two axes of places, not the shape {list(x)}")
        return ((1,) * (len(x) - 1) if self.keep_axes else ()) + x[-1:]


WindowedLayer = Convolution | DepthwiseConvolution | GlobalPooling | Pooling | TransposedConvolution
"""A layer of any kind in this module."""
