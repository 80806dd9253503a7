"""Normalisation of inputs by statistics that the task gives: the same on every device and before the exported model."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedprune.data.dataset import Dataset
from fedprune.errors import DataError

_MOST = 2**12
"""Statistics of a task: more columns or channels are no table."""

_Number = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
_Numbers = Annotated[tuple[_Number, ...], msgspec.Meta(min_length=1, max_length=_MOST)]
_Deviations = Annotated[
    tuple[Annotated[float, msgspec.Meta(ge=1e-30, le=1e30)], ...], msgspec.Meta(min_length=1, max_length=_MOST)
]


class Standard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="standard"):
    """(x - mean) / std: one of each for all of x, or for each column or channel, the last axis of x."""

    mean: _Numbers
    std: _Deviations

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers and std {len(self.std)}; give as many of each")

    @property
    def shift_and_scale(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.array(self.mean, np.float32), np.array(self.std, np.float32)


class MinMax(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="min-max"):
    """(x - minimum) / (maximum - minimum): one of each for all of x, or for each column or channel, its last axis."""

    minimum: _Numbers
    maximum: _Numbers

    def __post_init__(self) -> None:
        if len(self.minimum) != len(self.maximum):
            raise ValueError(
                f"minimum has {len(self.minimum)} numbers and maximum {len(self.maximum)}; give as many of each"
            )
        if any(high - low < 1e-30 for low, high in zip(self.minimum, self.maximum, strict=True)):
            raise ValueError("each maximum must be above its minimum; leave out columns that are constant")

    @property
    def shift_and_scale(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        low, high = np.array(self.minimum), np.array(self.maximum)
        return low.astype(np.float32), (high - low).astype(np.float32)


Normalization = Standard | MinMax


def normalize(dataset: Dataset, normalization: Normalization) -> None:
    """Replace x, float32 `[examples, ..., columns]`, by what it is normalised: in place, since it may be large.

    Raises `DataError` where x holds token ids, has another number of columns, or would not be finite.

    Example:
        >>> data = Dataset(np.float32([[20, 0], [30, 50]]), np.array([0, 1]))
        >>> normalize(data, Standard(mean=(20.0, 50.0), std=(10.0, 50.0)))
        >>> data.x.tolist()
        [[0.0, -1.0], [1.0, 0.0]]
    """
    shift, scale = normalization.shift_and_scale
    if dataset.holds_ids:
        raise DataError(f"{dataset.origin}: x holds token ids, and the task normalises numbers; save x as float32")
    if len(shift) not in (1, dataset.x.shape[-1]):
        raise DataError(
            f"{dataset.origin}: an example of x has {dataset.x.shape[-1]} columns or channels, the task normalises "
            f"{len(shift)}; build the task with statistics for each, or with one for all"
        )
    with np.errstate(over="ignore"):
        np.subtract(dataset.x, shift, out=dataset.x)
        np.divide(dataset.x, scale, out=dataset.x)
    for index, example in enumerate(dataset.x):
        if not np.isfinite(example).all():
            raise DataError(
                f"{dataset.origin}: example {index} of x is too far from the task's statistics for float32; correct it"
            )
