"""What has moved: where a model's weights differ from those that a run began with.

Both sides can tell, and no byte is sent for it, where the run began with drawn weights. What has moved before, and what
lies in its row and column, is the likeliest to move again: most of a sparse update goes to few units.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.links import Places
from fedprune.model.tensors import Mask, TensorClass, TensorTable, Weights

NOTHING_MOVED: Mask = MappingProxyType({})
"""Of sides that do not know what a run began with."""

_OF_ITSELF = (4, 10)
_OF_ROW = (4, *range(16, 33))
_OF_COLUMN = (4, *(7 + (9 * part + 7) // 16 for part in range(17)))
"""Odds of a place that has not moved and of one that has; of one in a row or column of which nothing has moved, and of
those of which some sixteenths have. Fitted to updates and deltas of CNN-108k, on which it does not depend much: 2.5
times, 4 to 8 times, and 1.7 to 4 times as likely."""

_UNIT = 16
"""So that odds are small numbers."""

LEAST_ODDS = 4
"""4 x 4 x 4 / 16, of a place of which nothing is known."""


def moved_since(first: Weights | None, weights: Weights, table: TensorTable) -> Mask:
    """Compare weights with those that the run began with.

    Args:
        first: float32, by tensor name; None where not all sides know them, of a pretrained start.
        weights: those of a version, as agents decode them.
        table: the task's tensor table.

    Returns:
        For each prunable and dense tensor a bool array of its shape: True where the two differ as fp16, which models
        may travel in. `NOTHING_MOVED` if `first` is not known.

    Example:
        >>> from fedprune.model.tensors import TensorSpec
        >>> table = TensorTable((TensorSpec("bias", (3,), "float32", TensorClass.DENSE, "dense"),))
        >>> moved_since({"bias": np.float32([0, 1, 2])}, {"bias": np.float32([0, 1.5, 2])}, table)["bias"].tolist()
        [False, True, False]
    """
    if first is None:
        return NOTHING_MOVED
    with np.errstate(over="ignore"):
        return {
            spec.name: first[spec.name].astype(np.float16) != weights[spec.name].astype(np.float16)
            for spec in table.of(TensorClass.PRUNABLE, TensorClass.DENSE)
        }


def odds(mask: Places, moved: Places) -> NDArray[np.int64]:
    """How likely each alive place is to be sent, next to the others.

    Args:
        mask: where a tensor's weights are kept, in its shape.
        moved: where they have moved, in the same shape.

    Returns:
        A number from 4 to 320 for each alive place, row by row; 4 for all if nothing has moved. All of it is integer
        arithmetic, so that every machine finds the same.

    Example:
        >>> odds(np.ones((2, 2), np.bool_), np.array([[True, False], [False, False]])).tolist()
        [165, 24, 11, 4]
    """
    if not mask.size:
        return np.empty(0, np.int64)
    columns = mask.shape[-1] if mask.ndim else 1
    alive, moved = mask.reshape(-1, columns), (mask & moved).reshape(-1, columns)
    of_row = _table(_OF_ROW)[_sixteenths(alive, moved, 1)]
    of_column = _table(_OF_COLUMN)[_sixteenths(alive, moved, 0)]
    product = _table(_OF_ITSELF)[moved.astype(np.intp)] * of_row[:, None] * of_column[None, :]
    return product[alive] // _UNIT


def _sixteenths(alive: Places, moved: Places, axis: int) -> NDArray[np.int64]:
    """0 where nothing has moved, else 1 and the sixteenths of the alive places that have."""
    count, total = moved.sum(axis, dtype=np.int64), alive.sum(axis, dtype=np.int64)
    return np.where(count > 0, 1 + 16 * count // np.maximum(total, 1), 0)


def _table(values: Sequence[int]) -> NDArray[np.int64]:
    return np.array(values, np.int64)
