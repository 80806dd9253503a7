"""Layers that multiply matrices."""

from __future__ import annotations

from typing import Annotated

import msgspec

from fedprune.network.layer import Count, Layer, Name, Shape

__all__ = ["Dense", "Dot", "ProductLayer"]

_Axis = Annotated[int, msgspec.Meta(ge=0, le=1)]


class Dense(Layer, frozen=True, kw_only=True, tag="dense"):
    """Each row of the last axis times `kernel` `[inputs, units]`, plus `bias` `[units]`."""

    units: Count
    kernel: Name
    bias: Name | None = None

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if not x:
            self.refuse("takes rows, not single numbers")
        return (*x[:-1], self.units)

    def tensors(self, *inputs: Shape) -> dict[str, Shape]:
        return self.named((self.kernel, (inputs[0][-1], self.units)), (self.bias, (self.units,)))


class Dot(Layer, frozen=True, kw_only=True, tag="dot"):
    """The products of two rows or matrices, summed over one axis of each, counted from 0 without the batch."""

    axes: tuple[_Axis, _Axis]

    def output(self, *inputs: Shape) -> Shape:
        x, y = self.take(inputs, 2)
        if any(not axis < len(shape) <= 2 for axis, shape in zip(self.axes, inputs, strict=True)):
            self.refuse(f"takes rows or matrices, not {list(x)} and {list(y)}")
        if x[self.axes[0]] != y[self.axes[1]]:
            self.refuse(f"sums over axes of one size, not {self.axes[0]} of {list(x)} and {self.axes[1]} of {list(y)}")
        rest = (shape[:axis] + shape[axis + 1 :] for axis, shape in zip(self.axes, inputs, strict=True))
        return sum(rest, ()) or (1,)


ProductLayer = Dense | Dot
"""A layer of any kind in this module."""
