"""The choice of units: which stay when a fraction of them is removed.

Scores, sums and ties are computed so that every participant chooses the same from the same weights, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Array, Weights
from fedprune.slimming.groups import KEPT, DependencyGroups, Kept, kept_entries
from fedprune.slimming.trace import Role

_PIECE = 2**16
"""Weights whose squares are summed at once."""


class UnitAllocation(StrEnum):
    """The rule that spreads removed units over the layers."""

    UNIFORM = "uniform"
    """The same fraction of each layer's units."""
    GLOBAL = "global"
    """By norm over all layers together, each norm over the root mean square of its layer's."""


def unit_norms(groups: DependencyGroups, weights: Weights) -> NDArray[np.float64]:
    """The Euclidean norm of each unit's weights, those that make it and those that take it (Li et al. 2017, "Pruning
    filters for efficient ConvNets", arXiv 1608.08710, with L2; Fang et al. 2023, arXiv 2301.12900, section 3.3).

    Args:
        groups: the network's.
        weights: float32, by tensor name.

    Returns:
        float64 `[units]`. Squares are summed in the order of the weights, hence alike on every machine.
    """
    squares = np.zeros(groups.count + 1)  # the last is of what belongs to no unit
    for axis in groups.axes:
        if axis.role is not Role.FOLLOWS:
            units = np.where(axis.units == KEPT, groups.count, axis.units)
            for places, piece in _pieces(units, axis.axis, weights[axis.tensor]):
                squares += np.bincount(places, np.square(piece, dtype=np.float64), len(squares))
    return np.sqrt(squares[:-1])


def choose_units(
    groups: DependencyGroups,
    weights: Weights,
    fraction: float,
    allocation: UnitAllocation,
    *,
    minimum: int = 1,
    multiple: int = 1,
    removed: NDArray[np.bool_] | None = None,
    choosable: NDArray[np.bool_] | None = None,
) -> Kept:
    """Choose the units that stay, those of largest norm, of equal ones those that come first.

    Args:
        groups: the network's.
        weights: float32, by tensor name.
        fraction: of the choosable units, to remove, in [0, 1).
        allocation: how it is spread over the layers.
        minimum: the number of channels that a layer keeps at least, where it has so many.
        multiple: of it is the number of channels that a layer keeps, where it has enough: more are kept for it.
            XNNPACK computes 4 or 8 at once.
        removed: bool `[units]`, those that are gone already and are not chosen again.
        choosable: bool `[units]`, those that may be removed; all, if it is left out.

    Returns:
        bool `[units]`, True for those that stay.
    """
    norms = unit_norms(groups, weights)
    gone = np.zeros(groups.count, np.bool_) if removed is None else removed
    free = np.ones(groups.count, np.bool_) if choosable is None else choosable
    blocks = [block[free[block]] for block in groups.blocks]
    if allocation is UnitAllocation.GLOBAL:
        blocks, norms = [np.concatenate([*blocks, np.zeros(0, np.int64)])], _relative(groups, norms)
    kept = ~gone & ~free
    for block in blocks:
        best_first = block[np.lexsort((block, -norms[block], gone[block]))]
        kept[best_first[: round(len(block) * (1.0 - fraction))]] = True
    return _filled_up(groups, kept & ~gone, norms, gone, minimum, multiple)


def _relative(groups: DependencyGroups, norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Norms over the root mean square of those in their block."""
    relative = norms.copy()
    for block in groups.blocks:
        scale = np.sqrt(np.cumsum(np.square(norms[block]))[-1] / len(block))
        if scale:
            relative[block] /= scale
    return relative


def _filled_up(
    groups: DependencyGroups,
    kept: Kept,
    norms: NDArray[np.float64],
    gone: NDArray[np.bool_],
    minimum: int,
    multiple: int,
) -> Kept:
    """`kept` and the best others, until each layer has the channels that it must have, or all."""
    kept = kept.copy()
    is_filling = True
    while is_filling:
        is_filling = False
        for made in groups.made:
            others = np.unique(made.units[made.units != KEPT])
            others = others[~kept[others] & ~gone[others]]
            count = int(kept_entries(made.units, kept).sum())
            if others.size and (count < max(minimum, 1) or count % multiple):
                kept[others[np.argmax(norms[others])]] = True
                is_filling = True
    return kept


def _pieces(units: NDArray[np.int64], axis: int, array: Array) -> Iterator[tuple[NDArray[np.int64], Array]]:
    """The weights of a tensor, in order and some at a time, and the unit of each, from `units` along an axis."""
    flat, inner = array.reshape(-1), math.prod(array.shape[axis + 1 :])
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        yield units[np.arange(start, start + piece.size) // inner % len(units)], piece
