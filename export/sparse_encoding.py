"""The sparse encoding of tensors in a .tflite file, made dense again: `SparsityParameters` of TensorFlow Lite's schema.

Dimensions are walked in an order of their own, those of blocks last. A dimension is dense, or holds for each place of
those before it the indices at which there is anything (compressed sparse rows).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

_INDICES = {
    schema.SparseIndexVector.Int32Vector: (schema.Int32Vector, "<i4"),
    schema.SparseIndexVector.Uint16Vector: (schema.Uint16Vector, "<u2"),
    schema.SparseIndexVector.Uint8Vector: (schema.Uint8Vector, "u1"),
}


def densify(stored: NDArray[Any], shape: Sequence[int], sparsity: Any) -> NDArray[Any]:
    """The dense tensor of `shape` whose values, in the order of the encoding `sparsity`, are `stored`."""
    order = sparsity.TraversalOrderAsNumpy().tolist()
    blocked = [] if sparsity.BlockMapIsNone() else sparsity.BlockMapAsNumpy().tolist()
    levels = [sparsity.DimMetadata(level) for level in range(len(order))]
    # Of each place that is stored: its number in the level above, and its index in each dimension so far.
    places, indices = np.zeros(1, np.int64), np.zeros((1, 0), np.int64)
    for level in levels:
        parents, index, places = (
            _dense(places, level) if level.Format() == schema.DimensionType.DENSE else _rows(places, level)
        )
        indices = np.column_stack([indices[parents], index])
    where = np.zeros((len(places), len(shape)), np.int64)
    for column, dimension in enumerate(order):
        if dimension < len(shape):
            where[:, dimension] += indices[:, column]
    for number, dimension in enumerate(blocked):
        column = order.index(len(shape) + number)
        size = levels[column].DenseSize()
        where[:, dimension] = where[:, dimension] * size + indices[:, column]
    dense = np.zeros(tuple(shape), stored.dtype)
    dense[tuple(where.T)] = stored[: len(places)]
    return dense


_Level = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""For each place of a level: its parent's position, its index in the level's dimension, its number in the level."""


def _dense(places: NDArray[np.int64], level: Any) -> _Level:
    size = level.DenseSize()
    index = np.tile(np.arange(size), len(places))
    return np.repeat(np.arange(len(places)), size), index, np.repeat(places, size) * size + index


def _rows(places: NDArray[np.int64], level: Any) -> _Level:
    segments = _vector(level.ArraySegmentsType(), level.ArraySegments())
    found = _vector(level.ArrayIndicesType(), level.ArrayIndices())
    counts = segments[places + 1] - segments[places]
    numbers = np.concatenate([np.arange(segments[place], segments[place + 1]) for place in places] or [places[:0]])
    return np.repeat(np.arange(len(places)), counts), found[numbers], numbers


def _vector(kind: int, table: Any) -> NDArray[np.int64]:
    vector, dtype = _INDICES[kind]
    values = vector()
    values.Init(table.Bytes, table.Pos)
    read: NDArray[np.int64] = np.asarray(values.ValuesAsNumpy()).view(dtype).astype(np.int64)
    return read
