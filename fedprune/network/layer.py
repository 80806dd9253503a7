"""The base of all kinds of layers, the types of their attributes, and their limits.

Shapes are without the batch, channels last.
"""

from __future__ import annotations

from typing import Annotated, NoReturn

import msgspec

from fedprune.errors import TaskError

MAX_SIZE = 2**24
"""Scalars that one example may have anywhere in the network."""

MAX_COUNT = 2**16
"""Of each thing that a layer counts: places, units, numbers."""

Shape = tuple[int, ...]

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Count = Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)]
Sizes = Annotated[tuple[Count, ...], msgspec.Meta(min_length=1, max_length=2)]
Number = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
Numbers = Annotated[tuple[Number, ...], msgspec.Meta(min_length=1, max_length=MAX_COUNT)]


class LayerError(TaskError):
    """A layer that cannot be as it is described, or not where it stands."""


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """What all layers have. Attributes that `tensors` names are rows of the tensor table, or None."""

    name: Name

    def output(self, *inputs: Shape) -> Shape:
        """The shape that the layer makes of `inputs`. Raises `LayerError` where it cannot take them."""
        (x,) = self.take(inputs, 1)
        return x

    def tensors(self, *inputs: Shape) -> dict[str, Shape]:  # noqa: ARG002 - most layers have none
        """The names and shapes of the tensors that the layer must have to take `inputs`, which `output` took."""
        return {}

    def take(self, inputs: tuple[Shape, ...], count: int) -> tuple[Shape, ...]:
        """`inputs`, of which there must be `count`."""
        if len(inputs) != count:
            self.refuse(f"takes {count} inputs, not {len(inputs)}")
        return inputs

    def take_steps(self, inputs: tuple[Shape, ...]) -> Shape:
        """The shape of one input, after which there may be the mask of its steps."""
        x, *masks = self.take(inputs, 2) if len(inputs) > 1 else self.take(inputs, 1)
        if masks not in ([], [x[:1]]):
            self.refuse(f"takes a mask for the steps of {list(x)}, not the shape {list(masks[0])}")
        return x

    def named(self, *tensors: tuple[str | None, Shape]) -> dict[str, Shape]:
        """The tensors that the layer has, each under a name of its own: an optional one may be None."""
        there = [(name, shape) for name, shape in tensors if name is not None]
        if len(dict(there)) != len(there):
            self.refuse("holds one tensor twice")
        return dict(there)

    def refuse(self, what: str) -> NoReturn:
        """Raise `LayerError`: the layer `what`."""
        raise LayerError(f"layer {self.name[:60]!r} {what}")
