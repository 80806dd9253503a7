"""Layers that normalise by mean and variance."""

from __future__ import annotations

from typing import Annotated

import msgspec

from fedprune.network.layer import Layer, Name, Shape


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
