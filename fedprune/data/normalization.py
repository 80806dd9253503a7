"""Normalisation of inputs by statistics that the task gives: the same on every device and before the exported model."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedprune.data.dataset import Dataset
from fedprune.data.description import Normalization, Standard
from fedprune.errors import DataError

_PART = 2**10
"""Examples that are looked at together."""


def normalize(dataset: Dataset, normalization: Normalization) -> None:
    """Replace x, float32 `[examples, ..., columns]`, by what it is normalised: in place, since it may be large.

    Raises `DataError` where there are several inputs, or x holds token ids, has another number of columns, or would not
    be finite.

    Example:
        >>> data = Dataset(np.float32([[20, 0], [30, 50]]), np.array([0, 1]))
        >>> normalize(data, Standard(mean=(20.0, 50.0), std=(10.0, 50.0)))
        >>> data.x.tolist()
        [[0.0, -1.0], [1.0, 0.0]]
    """
    if "x" not in dataset.inputs:
        raise DataError(f"{dataset.origin}: it has several inputs, and the task normalises x; save one array x")
    shift, scale = _shift_and_scale(normalization)
    if dataset.x.dtype == np.int32:
        raise DataError(f"{dataset.origin}: x holds token ids, and the task normalises numbers; save x as float32")
    if len(shift) not in (1, dataset.x.shape[-1]):
        raise DataError(
            f"{dataset.origin}: an example of x has {dataset.x.shape[-1]} columns or channels, the task normalises "
            f"{len(shift)}; build the task with statistics for each, or with one for all"
        )
    with np.errstate(over="ignore"):
        np.subtract(dataset.x, shift, out=dataset.x)
        np.divide(dataset.x, scale, out=dataset.x)
    for start in range(0, len(dataset), _PART):
        finite = np.isfinite(dataset.x[start : start + _PART]).reshape(-1, math.prod(dataset.x.shape[1:])).all(axis=1)
        if not finite.all():
            raise DataError(
                f"{dataset.origin}: example {start + finite.argmin()} of x is too far from the task's statistics for "
                "float32; correct it"
            )


def _shift_and_scale(normalization: Normalization) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both `[columns]` or `[1]`; differences are taken in float64."""
    if isinstance(normalization, Standard):
        return np.array(normalization.mean, np.float32), np.array(normalization.std, np.float32)
    low, high = np.array(normalization.minimum), np.array(normalization.maximum)
    return low.astype(np.float32), (high - low).astype(np.float32)
