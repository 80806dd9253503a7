"""Layers that normalise by mean and variance."""

from __future__ import annotations

from typing import Annotated

import msgspec

from fedprune.network.layer import Count, Layer, Name, Shape

__all__ = ["BatchNormalization", "GroupNormalization", "LayerNormalization", "NormalizationLayer", "UnitNormalization"]

_Epsilon = Annotated[float, msgspec.Meta(ge=1e-12, le=1e3)]
"""Not 0: what fills a batch up is constant."""


class BatchNormalization(Layer, frozen=True, kw_only=True, tag="batch-normalization"):
    """Normalise each channel over batch and places (Ioffe and Szegedy 2015, arXiv 1502.03167, algorithm 1).

    While `mean` is frozen the moving statistics are used, and stay. `unbiased`: the moving variance follows the
    batch's unbiased one, as in TensorFlow's fused kernel.
    """

    epsilon: Annotated[float, msgspec.Meta(ge=0, le=1e3)]
    momentum: Annotated[float, msgspec.Meta(ge=0, le=1)]
    unbiased: bool
    gamma: Name | None
    beta: Name | None
    mean: Name
    variance: Name

    def tensors(self, *inputs: Shape) -> dict[str, Shape]:
        channels = inputs[0][-1:]
        return self.named(*((name, channels) for name in (self.gamma, self.beta, self.mean, self.variance)))

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if not x:
            self.refuse("takes channels, not single numbers")
        if self.unbiased and len(x) != 3:
            self.refuse(f"has an unbiased variance, which is of images, not of the shape {list(x)}")
        return x


class LayerNormalization(Layer, frozen=True, kw_only=True, tag="layer-normalization"):
    """Normalise each example, or each of its places, over its last `axes` (Ba et al. 2016, arXiv 1607.06450)."""

    axes: Annotated[int, msgspec.Meta(ge=1, le=5)]
    epsilon: _Epsilon
    gamma: Name | None
    beta: Name | None

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if len(x) < self.axes:
            self.refuse(f"normalises over {self.axes} axes, not the shape {list(x)}")
        return x

    def tensors(self, *inputs: Shape) -> dict[str, Shape]:
        return self.named(*((name, inputs[0][-self.axes :]) for name in (self.gamma, self.beta)))


class GroupNormalization(Layer, frozen=True, kw_only=True, tag="group-normalization"):
    """Normalise each example's places and a group of its channels together (Wu and He 2018, arXiv 1803.08494)."""

    groups: Count
    epsilon: _Epsilon
    gamma: Name | None
    beta: Name | None

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if not x or x[-1] % self.groups:
            self.refuse(f"has {self.groups} groups of channels, which do not divide the shape {list(x)}")
        return x

    def tensors(self, *inputs: Shape) -> dict[str, Shape]:
        return self.named(*((name, inputs[0][-1:]) for name in (self.gamma, self.beta)))


class UnitNormalization(Layer, frozen=True, kw_only=True, tag="unit-normalization"):
    """Each row of the last axis over its Euclidean norm, which counts as 1e-6 at least."""

    def output(self, *inputs: Shape) -> Shape:
        (x,) = self.take(inputs, 1)
        if not x:
            self.refuse("takes rows, not single numbers")
        return x


NormalizationLayer = BatchNormalization | GroupNormalization | LayerNormalization | UnitNormalization
"""A layer of any kind in this module."""
