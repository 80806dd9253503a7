"""Layers that join several values number by number, read and made. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fedprune.keras.draft import Draft
from fedprune.keras.layer import Family, Maker, Masks, Penalties, Read, Reader
from fedprune.keras.pointwise import rescale
from fedprune.keras.stack import keras
from fedprune.network.layers import Add, Merge, Operation, Shape


def subtract(draft: Draft, layer: Any, x: int, y: int) -> int:
    """`x` less `y`, two values."""
    return draft.add(layer, Add, x, rescale(draft, layer, y, -1.0, 0.0, part="negative"))


def _read_add(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return draft.add(layer, Add, *inputs) if len(inputs) > 1 else inputs[0]


def _read_subtract(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return subtract(draft, layer, *inputs)


def _read_average(draft: Draft, layer: Any, inputs: list[int]) -> int:
    total = draft.add(layer, Add, *inputs, part="sum") if len(inputs) > 1 else inputs[0]
    return rescale(draft, layer, total, 1.0 / len(inputs), 0.0)


def _make_add(_layer: Add, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return partial(keras.layers.Add)


def _read_merge(operation: Operation) -> Read:
    def read(draft: Draft, layer: Any, inputs: list[int]) -> int:
        return draft.add(layer, Merge, *inputs, operation=operation) if len(inputs) > 1 else inputs[0]

    return read


def _make_merge(layer: Merge, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return partial(_MERGES[layer.operation])


_MERGES = {
    Operation.MULTIPLY: keras.layers.Multiply,
    Operation.MAXIMUM: keras.layers.Maximum,
    Operation.MINIMUM: keras.layers.Minimum,
}

FAMILY = Family(
    readers={
        keras.layers.Add: Reader(_read_add, masks=Masks.MERGED),
        keras.layers.Average: Reader(_read_average, masks=Masks.MERGED),
        keras.layers.Subtract: Reader(_read_subtract, masks=Masks.MERGED),
        **{kind: Reader(_read_merge(operation), masks=Masks.MERGED) for operation, kind in _MERGES.items()},
    },
    makers={
        Add: Maker(_make_add),
        Merge: Maker(_make_merge),
    },
)
