"""Layers that multiply matrices."""

from __future__ import annotations

from fedprune.network.layer import Count, Layer, Name, Shape


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
