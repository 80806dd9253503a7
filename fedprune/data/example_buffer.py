"""Examples in the order in which a reader finds them: memory, or a working file, is taken only for those that come."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedprune.data.dataset import Examples
from fedprune.data.room import IN_MEMORY, MAX_EXAMPLES, Room, WorkingFile
from fedprune.data.stored_rows import PART_BYTES, Change, StoredRows, bytes_of, unchanged
from fedprune.errors import DataError
from fedprune.model.tensors import Inputs


class ExampleBuffer:
    """Place for `most` examples of one shape, or for as many as `room` has if these are fewer.

    They are kept in memory if `most` of them are no more than it holds: all of it is reserved at once, so that nothing
    is ever copied; pages that are not written take no memory. Else they go to a working file, as they come, in `dtype`;
    `change`, which gives float32, then makes of them what a model takes. Labels are class numbers, int64 `[examples]`,
    where `of_classes`, else numbers, float32 `[examples, 1]`; they are always in memory.

    Raises `DataError` where the machine has no such room.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: type[Any],
        most: int,
        room: Room = IN_MEMORY,
        *,
        of_classes: bool,
        change: Change | None = None,
    ) -> None:
        row = 4 * math.prod(shape)
        in_memory = room.directory is None or room.holds(most * row)
        self._most = max(1, most)
        self._room = max(1, min(most, room.memory_bytes // row if in_memory else MAX_EXAMPLES))
        self._kept: _Kept
        try:
            self._labels: NDArray[Any] = (
                np.empty(self._room, np.int64) if of_classes else np.empty((self._room, 1), np.float32)
            )
            if in_memory:
                self._kept = _InMemory(shape, dtype, self._room, change)
            else:
                size = self._room * math.prod(shape) * np.dtype(dtype).itemsize
                self._kept = _OnDisk(shape, dtype, room.working_file(size, f"{most} examples"), change)
        except (MemoryError, ValueError) as error:  # ValueError: 2 GiB are more than a 32-bit machine can name
            raise DataError(
                f"{most} examples of {'x'.join(map(str, shape))} do not fit into this machine's memory; split the data"
            ) from error
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, x: ArrayLike, y: float) -> None:
        """Copy in one example. Raises `DataError` once there is no more room.

        Beyond `most` it is left out: who records appended it after the examples were counted.
        """
        if self._count == self._room:
            if self._room == self._most:
                return
            raise DataError(f"more than {self._count} examples, which is all there is room for; split the data")
        self._kept.add(self._count, x)
        self._labels[self._count] = y
        self._count += 1

    def examples(self, origin: str) -> Examples:
        """The examples that were added, not copied."""
        return Examples({"x": self._kept.rows(self._count)}, {"y": self._labels[: self._count]}, origin)


class _Kept(Protocol):
    def add(self, index: int, x: ArrayLike) -> None: ...

    def rows(self, count: int) -> Inputs | StoredRows: ...


class _InMemory:
    def __init__(self, shape: tuple[int, ...], dtype: type[Any], room: int, change: Change | None) -> None:
        self._change = change or unchanged
        self._x: NDArray[Any] = np.empty((room, *shape), dtype if change is None else np.float32)

    def add(self, index: int, x: ArrayLike) -> None:
        self._x[index] = self._change(np.asarray(x))

    def rows(self, count: int) -> Inputs:
        return self._x[:count]


class _OnDisk:
    """Writes examples together, since a call for each would take longer than they do."""

    def __init__(self, shape: tuple[int, ...], dtype: type[Any], file: WorkingFile, change: Change | None) -> None:
        self._shape = shape
        self._change = change
        self._file = file
        together = max(1, PART_BYTES // (math.prod(shape) * np.dtype(dtype).itemsize))
        self._waiting: NDArray[Any] = np.empty((together, *shape), dtype)

    def add(self, index: int, x: ArrayLike) -> None:
        place = index % len(self._waiting)
        self._waiting[place] = x
        if place + 1 == len(self._waiting):
            self._write(len(self._waiting))

    def rows(self, count: int) -> StoredRows:
        self._write(count % len(self._waiting))
        stored = self._waiting.dtype
        dtype = stored if self._change is None else np.dtype(np.float32)
        changes = () if self._change is None else (self._change,)
        return StoredRows(self._file.finish(), 0, count, self._shape, stored, self._shape, dtype, changes)

    def _write(self, count: int) -> None:
        self._file.append(bytes_of(self._waiting[:count]))
