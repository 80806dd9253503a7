"""Layers that make masks: for each step of a sequence 1, or 0 where the step is padding.

A mask is a value like others. Layers that leave padding out take it as one more input, and the loss leaves out the
places of an output that has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedprune.network.joins import Merge, Operation
from fedprune.network.layer import Layer, Number, Shape
from fedprune.network.shapes import Concatenate

__all__ = ["IdMask", "MaskingLayer", "StepMask"]


class IdMask(Layer, frozen=True, kw_only=True, tag="id-mask"):
    """1 for each id but 0, which stands for padding. Its input is the network's own, as that of Embedding is."""

    def output(self, *inputs: Shape) -> Shape:
        (ids,) = self.take(inputs, 1)
        if not ids:
            self.refuse("takes steps, not a single id")
        return ids


class StepMask(Layer, frozen=True, kw_only=True, tag="step-mask"):
    """1 for each step that holds another number than `padding` in some channel: of `[*steps, channels]`, `[*steps]`."""

    padding: Number

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if len(x) < 2:
            self.refuse(f"takes steps and channels, not the shape {list(x)}")
        return x[:-1]


MaskingLayer = IdMask | StepMask
"""A layer of any kind in this module."""


def mask_values(inputs: int, steps: Iterable[tuple[Layer, Sequence[int]]]) -> dict[int, tuple[Layer, Sequence[int]]]:
    """The values that are masks, each with the layer that makes it and that layer's inputs: masks of a network's own
    `inputs`, so many, and what joins such. `steps` are its layers, each with its inputs, in order."""
    found: dict[int, tuple[Layer, Sequence[int]]] = {}
    for value, (layer, taken) in enumerate(steps, start=inputs):
        match layer:
            case IdMask() | StepMask():
                is_mask = all(number < inputs for number in taken)
            case Merge(operation=Operation.MULTIPLY) | Concatenate():
                is_mask = all(number in found for number in taken)
            case _:
                is_mask = False
        if is_mask:
            found[value] = layer, taken
    return found
