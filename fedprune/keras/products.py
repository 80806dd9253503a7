"""Layers that multiply matrices, read and made. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fedprune.keras.draft import Draft
from fedprune.keras.layer import KERNEL, WEIGHTS, Family, Maker, Masks, Penalties, Reader, weights
from fedprune.keras.pointwise import activate
from fedprune.keras.refusal import refuse
from fedprune.keras.stack import keras
from fedprune.network.layers import Dense, Dot, Shape, UnitNormalization


def _read_dense(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    y = draft.add(layer, Dense, x, units=layer.units, kernel=draft.tensor(layer, "kernel"), bias=draft.bias(layer))
    return activate(draft, layer, y, layer.activation)


def _make_dense(layer: Dense, _shape: Shape, penalties: Penalties) -> Callable[..., Any]:
    return partial(keras.layers.Dense, units=layer.units, **weights("kernel", layer, penalties))


def _read_dot(draft: Draft, layer: Any, inputs: list[int]) -> int:
    given = layer.axes if isinstance(layer.axes, list | tuple) else [layer.axes] * len(inputs)
    ranks = [len(draft.shape(x)) + 1 for x in inputs]
    axes = [axis % rank for axis, rank in zip(given, ranks, strict=True)]
    if 0 in axes:
        refuse(layer, "a product over examples", "other axes")
    if layer.normalize:
        if any(axis != rank - 1 for axis, rank in zip(axes, ranks, strict=True)):
            refuse(layer, "normalize = True over other axes than the last", "UnitNormalization before it")
        inputs = [draft.add(layer, UnitNormalization, x, part=f"unit{i}") for i, x in enumerate(inputs)]
    return draft.add(layer, Dot, *inputs, axes=tuple(axis - 1 for axis in axes))


def _make_dot(layer: Dot, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return partial(keras.layers.Dot, axes=tuple(axis + 1 for axis in layer.axes))


FAMILY = Family(
    readers={
        keras.layers.Dense: Reader(_read_dense, f"units {WEIGHTS} {KERNEL}", Masks.HANDED_ON),
        keras.layers.Dot: Reader(_read_dot, "axes normalize"),
    },
    makers={
        Dense: Maker(_make_dense, {"kernel": "kernel", "bias": "bias"}),
        Dot: Maker(_make_dot),
    },
)
