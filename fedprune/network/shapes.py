"""Layers that move numbers, and compute none."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from fedprune.network.layer import Count, Layer, Shape

_Padding = Annotated[int, msgspec.Meta(ge=0, le=2**16)]


class Reshape(Layer, frozen=True, kw_only=True, tag="reshape"):
    """The same numbers in another shape; Keras' Flatten too."""

    shape: Annotated[tuple[Count, ...], msgspec.Meta(max_length=5)]

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


class Concatenate(Layer, frozen=True, kw_only=True, tag="concatenate"):
    """Inputs side by side along `axis`, which counts from 0 without the batch."""

    axis: Annotated[int, msgspec.Meta(ge=0, le=4)]

    def output(self, *inputs: Shape) -> Shape:
        others = [x[: self.axis] + x[self.axis + 1 :] for x in inputs]
        if len(inputs) < 2 or any(len(x) <= self.axis for x in inputs) or any(other != others[0] for other in others):
            self.refuse(f"joins inputs that differ along axis {self.axis} alone, not {[list(x) for x in inputs[:4]]}")
        joined = sum(x[self.axis] for x in inputs)
        return (*inputs[0][: self.axis], joined, *inputs[0][self.axis + 1 :])
