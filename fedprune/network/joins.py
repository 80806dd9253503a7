"""Layers that join several values number by number."""

from __future__ import annotations

from enum import StrEnum

from fedprune.network.layer import Layer, Shape

__all__ = ["Add", "JoiningLayer", "Merge", "Operation"]

_BROADCAST_RANK = 3
"""Axes up to which runtimes repeat an axis of size 1."""


class Operation(StrEnum):
    """What a merge makes of two numbers."""

    MULTIPLY = "multiply"
    MAXIMUM = "maximum"
    MINIMUM = "minimum"


class Add(Layer, frozen=True, kw_only=True, tag="add"):
    """The sum of inputs of one shape."""

    def output(self, *inputs: Shape) -> Shape:
        if len(inputs) < 2 or any(x != inputs[0] for x in inputs):
            self.refuse(f"adds inputs of one shape, not {[list(x) for x in inputs[:4]]}")
        return inputs[0]


class Merge(Layer, frozen=True, kw_only=True, tag="merge"):
    """The product, maximum or minimum of inputs of one rank, where an axis of size 1 is repeated."""

    operation: Operation

    def output(self, *inputs: Shape) -> Shape:
        sizes = [set(axis) - {1} for axis in zip(*inputs, strict=False)]
        if len(inputs) < 2 or any(len(x) != len(sizes) for x in inputs) or any(len(found) > 1 for found in sizes):
            self.refuse(f"joins inputs of one shape but for axes of size 1, not {[list(x) for x in inputs[:4]]}")
        shape = tuple(max(found, default=1) for found in sizes)
        if len(shape) > _BROADCAST_RANK and any(x != shape for x in inputs):
            self.refuse(f"repeats axes of shapes that have more than {_BROADCAST_RANK}")
        return shape


JoiningLayer = Add | Merge
"""A layer of any kind in this module."""
