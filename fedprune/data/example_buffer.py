"""Examples in the order in which a reader finds them: memory is taken only for those that come."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedprune.data.dataset import Dataset
from fedprune.data.npz import MAX_BYTES
from fedprune.errors import DataError


class ExampleBuffer:
    """Room for `most` examples of one shape, or for `MAX_BYTES` of them if that is less.

    The room is reserved at once, so that nothing is ever copied; pages that are not written take no memory. Labels are
    class numbers, int64 `[examples]`, where `of_classes`, else numbers, float32 `[examples, 1]`.

    Raises `DataError` where the machine has no such room.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type[Any], most: int, *, of_classes: bool) -> None:
        room = max(1, min(most, MAX_BYTES // (4 * math.prod(shape))))
        try:
            self._x: NDArray[Any] = np.empty((room, *shape), dtype)
            self._y: NDArray[Any] = np.empty(room, np.int64) if of_classes else np.empty((room, 1), np.float32)
        except (MemoryError, ValueError) as error:  # ValueError: 2 GiB are more than a 32-bit machine can name
            raise DataError(
                f"{most} examples of {'x'.join(map(str, shape))} do not fit into this machine's memory; split the data"
            ) from error
        self._holds_all = room == max(1, most)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, x: ArrayLike, y: float) -> None:
        """Copy in one example. Raises `DataError` once there is no more room.

        Beyond `most` it is left out: who records appended it after the examples were counted.
        """
        if self._count == len(self._x):
            if self._holds_all:
                return
            raise DataError(f"more than {self._count} examples, or {MAX_BYTES >> 20} MiB of them; split the data")
        self._x[self._count] = x
        self._y[self._count] = y
        self._count += 1

    def dataset(self, origin: str) -> Dataset:
        """The examples that were added, not copied."""
        return Dataset(self._x[: self._count], self._y[: self._count], origin)
