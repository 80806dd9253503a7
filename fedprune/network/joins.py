"""Layers that join several values number by number."""

from __future__ import annotations

from fedprune.network.layer import Layer, Shape


class Add(Layer, frozen=True, kw_only=True, tag="add"):
    """The sum of inputs of one shape."""

    def output(self, *inputs: Shape) -> Shape:
        if len(inputs) < 2 or any(x != inputs[0] for x in inputs):
            self.refuse(f"adds inputs of one shape, not {[list(x) for x in inputs[:4]]}")
        return inputs[0]
