"""Rows of an array in a file, read when they are asked for: examples that are larger than memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedprune.data.room import OpenFile
from fedprune.model.losses import Labels
from fedprune.model.tensors import Inputs

PART_BYTES = 2**20
"""Bytes of rows that are looked at together."""

Change: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]
"""A change of rows, one by one or several at once alike."""


def unchanged(rows: NDArray[Any]) -> NDArray[Any]:
    return rows


@dataclass(frozen=True, eq=False)
class StoredRows:
    """The rows `[rows, *row_shape]`, of `dtype`, of an array that begins at `place` of a file.

    There it has `count` rows of `stored_shape`, of the dtype `stored`, in C order; `changes` make of them what a model
    takes. `chosen` are the rows that count, in their order; None: all. Indexed by a slice, or by row numbers, it gives
    an array in memory.
    """

    file: OpenFile
    place: int
    count: int
    stored_shape: tuple[int, ...]
    stored: np.dtype[Any]
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    changes: tuple[Change, ...] = ()
    chosen: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return self.count if self.chosen is None else len(self.chosen)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.row_shape)

    @property
    def row_bytes(self) -> int:
        """Bytes that a row has in the file."""
        return self.stored.itemsize * math.prod(self.stored_shape)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            if self.chosen is None:
                return self._changed(self._read_run(start, max(0, stop - start)))
            return self._changed(self._read_each(self.chosen[start:stop]))
        return self._changed(self._read_each(rows if self.chosen is None else self.chosen[rows]))

    def changed(self, change: Change, dtype: np.dtype[Any] | None = None) -> StoredRows:
        """The same rows with one more change, which gives `dtype`."""
        return replace(self, changes=(*self.changes, change), dtype=dtype or self.dtype)

    def reshaped(self, row_shape: tuple[int, ...]) -> StoredRows:
        changes = (*self.changes, lambda rows: rows.reshape(len(rows), *row_shape))
        return replace(self, changes=changes, row_shape=row_shape)

    def only(self, rows: NDArray[np.int64]) -> StoredRows:
        """Some of the rows."""
        chosen = rows if self.chosen is None else self.chosen[rows]
        return replace(self, chosen=chosen.astype(np.int32))

    def expect(self, start: int, stop: int) -> None:
        """Have the rows from `start` up to `stop` read ahead. Rows that were left out between them are read too."""
        first, last = start, stop - 1
        if self.chosen is not None:
            first, last = int(self.chosen[first]), int(self.chosen[last])
        self.file.expect(self.place + first * self.row_bytes, (last - first + 1) * self.row_bytes)

    def _read_run(self, start: int, count: int) -> NDArray[Any]:
        rows = self._empty(count)
        self.file.read_into(bytes_of(rows), self.place + start * self.row_bytes)
        return rows

    def _read_each(self, chosen: NDArray[np.integer[Any]]) -> NDArray[Any]:
        rows = self._empty(len(chosen))
        buffer, size = bytes_of(rows), self.row_bytes
        for index, row in enumerate(chosen.tolist()):
            self.file.read_into(buffer[index * size : (index + 1) * size], self.place + row * size)
        return rows

    def _empty(self, count: int) -> NDArray[Any]:
        return np.empty((count, *self.stored_shape), self.stored)

    def _changed(self, rows: NDArray[Any]) -> NDArray[Any]:
        for change in self.changes:
            rows = change(rows)
        return rows


Rows: TypeAlias = Inputs | Labels | StoredRows


def in_parts(rows: Rows) -> Iterator[tuple[int, NDArray[Any]]]:
    """Parts of at most `PART_BYTES`, each with the number of its first row; views of an array that is in memory."""
    size = max(1, PART_BYTES // max(1, rows.dtype.itemsize * math.prod(rows.shape[1:])))
    for start in range(0, len(rows), size):
        yield start, rows[start : start + size]


def reshaped(rows: Rows, row_shape: tuple[int, ...]) -> Rows:
    """Rows of another shape; an array in memory is not copied."""
    return rows.reshaped(row_shape) if isinstance(rows, StoredRows) else rows.reshape(len(rows), *row_shape)


def as_float32(rows: Rows) -> Rows:
    """Rows as float32; an array in memory that is so already is not copied."""
    if isinstance(rows, StoredRows):
        return rows.changed(lambda part: part.astype(np.float32), np.dtype(np.float32))
    return np.asarray(rows, np.float32)


def bytes_of(rows: NDArray[Any]) -> memoryview:
    """The memory of an array in C order."""
    return rows.reshape(-1).view(np.uint8).data
