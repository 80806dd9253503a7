"""Layers that make masks: for each step of a sequence 1, or 0 where the step is padding.

A mask is a value like others. Layers that leave padding out take it as one more input.
"""

from __future__ import annotations

from fedprune.network.layer import Layer, Number, Shape

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
