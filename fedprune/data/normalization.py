"""Normalisation of inputs by statistics that the task gives: the same on every device and before the exported model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.data.dataset import Examples
from fedprune.data.description import Normalization, Standard
from fedprune.data.stored_rows import StoredRows, in_parts
from fedprune.errors import DataError


def normalize(examples: Examples, normalization: Normalization) -> Examples:
    """The examples with x, float32 `[examples, ..., columns]`, normalised.

    What is in memory is normalised in place, since it may be large; what is on a disk when it is read.

    Raises `DataError` where there are several inputs, or x holds token ids, has another number of columns, or would not
    be finite.

    Example:
        >>> data = Examples({"x": np.float32([[20, 0], [30, 50]])}, {"y": np.array([0, 1])})
        >>> normalize(data, Standard(mean=(20.0, 50.0), std=(10.0, 50.0))).inputs["x"].tolist()
        [[0.0, -1.0], [1.0, 0.0]]
    """
    if "x" not in examples.inputs:
        raise DataError(f"{examples.origin}: it has several inputs, and the task normalises x; save one array x")
    x = examples.inputs["x"]
    shift, scale = _shift_and_scale(normalization)
    if x.dtype == np.int32:
        raise DataError(f"{examples.origin}: x holds token ids, and the task normalises numbers; save x as float32")
    if len(shift) not in (1, x.shape[-1]):
        raise DataError(
            f"{examples.origin}: an example of x has {x.shape[-1]} columns or channels, the task normalises "
            f"{len(shift)}; build the task with statistics for each, or with one for all"
        )

    def change(rows: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            np.subtract(rows, shift, out=rows)
            np.divide(rows, scale, out=rows)
        return rows

    changed = x.changed(change) if isinstance(x, StoredRows) else change(x)
    for start, part in in_parts(changed):
        finite = np.isfinite(part).reshape(-1, math.prod(x.shape[1:])).all(axis=1)
        if not finite.all():
            raise DataError(
                f"{examples.origin}: example {start + finite.argmin()} of x is too far from the task's statistics for "
                "float32; correct it"
            )
    return examples.with_arrays({"x": changed}, examples.labels)


def _shift_and_scale(normalization: Normalization) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both `[columns]` or `[1]`; differences are taken in float64."""
    if isinstance(normalization, Standard):
        return np.array(normalization.mean, np.float32), np.array(normalization.std, np.float32)
    low, high = np.array(normalization.minimum), np.array(normalization.maximum)
    return low.astype(np.float32), (high - low).astype(np.float32)
