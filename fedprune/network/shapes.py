"""Layers that move numbers, and compute none."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from fedprune.network.layer import MAX_COUNT, MAX_SIZE, Layer, Shape, Sizes

__all__ = ["Concatenate", "Cropping", "Permute", "Reshape", "ShapeLayer", "Upsampling", "ZeroPadding"]

_Padding = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]


class Reshape(Layer, frozen=True, kw_only=True, tag="reshape"):
    """The same numbers in another shape; Keras' Flatten too."""

    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=1, le=MAX_SIZE)], ...], msgspec.Meta(max_length=4)]

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if math.prod(x) != math.prod(self.shape):
            self.refuse(f"makes the shape {list(self.shape)} of {list(x)}, which has other numbers")
        return self.shape


class ZeroPadding(Layer, frozen=True, kw_only=True, tag="zero-padding"):
    """Zeros before and after, along each axis but that of channels."""

    padding: Annotated[tuple[tuple[_Padding, _Padding], ...], msgspec.Meta(min_length=1, max_length=2)]

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if len(x) != len(self.padding) + 1:
            self.refuse(f"pads {len(self.padding)} axes of the shape {list(x)}")
        return (*(before + size + after for size, (before, after) in zip(x, self.padding, strict=False)), x[-1])


class Cropping(Layer, frozen=True, kw_only=True, tag="cropping"):
    """Without the first and last places, along each axis but that of channels."""

    cropping: Annotated[tuple[tuple[_Padding, _Padding], ...], msgspec.Meta(min_length=1, max_length=2)]

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if len(x) != len(self.cropping) + 1 or any(
            sum(ends) >= size for size, ends in zip(x, self.cropping, strict=False)
        ):
            self.refuse(f"crops {[list(ends) for ends in self.cropping]} places of the shape {list(x)}")
        return (*(size - sum(ends) for size, ends in zip(x, self.cropping, strict=False)), x[-1])


class Upsampling(Layer, frozen=True, kw_only=True, tag="upsampling"):
    """Each place `size` times in a row, along each axis but that of channels.

    Of images the places in between may be `bilinear`: means of the two nearest along each axis, weighted by nearness
    (TensorFlow's resize with centres at half a pixel).
    """

    size: Sizes
    bilinear: bool = False

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if self.bilinear and len(self.size) != 2:
            self.refuse("is bilinear, which takes two axes of places")
        if self.bilinear and any(length**2 * times > MAX_SIZE for length, times in zip(x, self.size, strict=False)):
            self.refuse(f"interpolates between more than {MAX_SIZE} pairs of places")
        if len(x) != len(self.size) + 1:
            self.refuse(f"takes {len(self.size) + 1} axes, not the shape {list(x)}")
        return (*(length * times for length, times in zip(x, self.size, strict=False)), x[-1])


class Permute(Layer, frozen=True, kw_only=True, tag="permute"):
    """The same numbers with axes in another order: first axis `axes[0]`, which counts from 0 without the batch."""

    axes: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, le=3)], ...], msgspec.Meta(min_length=1, max_length=4)]

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if sorted(self.axes) != list(range(len(x))):
            self.refuse(f"puts axes {list(self.axes)} in order, of the shape {list(x)}")
        return tuple(x[axis] for axis in self.axes)


class Concatenate(Layer, frozen=True, kw_only=True, tag="concatenate"):
    """Inputs side by side along `axis`, which counts from 0 without the batch."""

    axis: Annotated[int, msgspec.Meta(ge=0, le=3)]

    def output(self, *inputs: Shape) -> Shape:
        others = [x[: self.axis] + x[self.axis + 1 :] for x in inputs]
        if len(inputs) < 2 or any(len(x) <= self.axis for x in inputs) or any(other != others[0] for other in others):
            self.refuse(f"joins inputs that differ along axis {self.axis} alone, not {[list(x) for x in inputs[:4]]}")
        joined = sum(x[self.axis] for x in inputs)
        return (*inputs[0][: self.axis], joined, *inputs[0][self.axis + 1 :])


ShapeLayer = Concatenate | Cropping | Permute | Reshape | Upsampling | ZeroPadding
"""A layer of any kind in this module."""
