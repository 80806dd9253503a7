"""Outliers among a round's updates: those whose norm no honest training explains. They are judged once, when the round
is merged, on the complete set that was accepted, so that nothing depends on the order in which updates came."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs import Update
from fedprune.model.tensors import Array, TensorClass, TensorTable, Weights

FACTOR = 10.0
"""An update's norm may be so many times the typical one. `python -m benchmarks.outliers` shows how near honest ones
come to it: of agents with one class, with 20 to 2,000 examples, with residuals of late rounds."""

LEAST_UPDATES = 3
"""Updates that say among themselves what is typical: of two that differ nobody can tell which is the outlier."""

_PIECE = 2**15
"""Numbers that are squared at once."""


@dataclass(frozen=True)
class Norms:
    """Two sizes of an update, each in its own units. `delta`: the L2 norm of the delta of all weights. `statistics`:
    that of the shift of moving means and moving standard deviations from the global model's; 0 without statistics."""

    delta: float
    statistics: float


def norms_of(update: Update, base: Weights, table: TensorTable) -> Norms:
    """Measure one update.

    Args:
        update: one that `check_update` passed.
        base: the global model that it was trained from, by tensor name.
        table: the task's tensor table.

    Returns:
        The norms, float64, finite.

    Example:
        >>> from fedprune.model.tensors import TensorClass, TensorSpec
        >>> table = TensorTable((TensorSpec("bias", (2,), "float32", TensorClass.DENSE, "dense"),))
        >>> norms_of(Update({"bias": np.array([3.0, 4.0], np.float32)}, {}, {}), {"bias": np.zeros(2)}, table)
        Norms(delta=5.0, statistics=0.0)
    """
    shifts: list[NDArray[np.float64]] = [
        update.statistics[mean].astype(np.float64) - base[mean] for mean, _ in table.moments
    ]
    shifts += [_deviation(update.statistics[name]) - _deviation(base[name]) for _, name in table.moments]
    return Norms(_norm(update.delta.values()), _norm(shifts))


def model_norms(weights: Weights, table: TensorTable) -> Norms:
    """The size of the model itself, which stands in for updates' in the first round: no training moves it many times
    its own length at once. Statistics have no such measure; theirs is 0.

    Args:
        weights: by tensor name.
        table: the task's tensor table.
    """
    return Norms(_norm(weights[spec.name] for spec in table.of(TensorClass.PRUNABLE, TensorClass.DENSE)), 0.0)


def typical(norms: Collection[Norms]) -> Norms:
    """The lower medians of one update's norms or more: half of the updates are not larger."""
    return Norms(
        statistics.median_low(each.delta for each in norms), statistics.median_low(each.statistics for each in norms)
    )


def are_usual(norms: Iterable[Norms], known: Norms) -> bool:
    """None of the norms is more than `FACTOR` times what was known to be usual when the round opened."""
    return all(
        each.delta <= FACTOR * known.delta and (not known.statistics or each.statistics <= FACTOR * known.statistics)
        for each in norms
    )


def outliers(norms: Mapping[str, Norms], earlier: Norms) -> dict[str, str]:
    """Find the updates that are to be left out.

    A norm is typical up to the largest that was typical of an earlier round, or is of this one if it has
    `LEAST_UPDATES`: norms shrink while a model learns, and grow when it is pruned, or when a device joins late. An
    outlier has more than `FACTOR` times that. Nobody is one where nothing is known yet, or where all would be: then the
    held-out loss decides (`aggregator.explosion`).

    Args:
        norms: of all accepted updates of the round, by agent.
        earlier: the largest that were typical of an earlier round, or what stands in for them; 0 for none.

    Returns:
        The reason for each update that is left out, by agent, the largest norm first.

    Example:
        >>> honest = {f"pi-{index}": Norms(1.0 + index / 10, 0.0) for index in range(3)}
        >>> outliers(honest | {"pi-3": Norms(1e4, 0.0)}, earlier=Norms(0.0, 0.0))
        {'pi-3': 'the norm of its delta is 1e+04; up to 11 is usual here'}
    """
    of_round = typical(norms.values()) if len(norms) >= LEAST_UPDATES else Norms(0.0, 0.0)
    bound = Norms(FACTOR * max(earlier.delta, of_round.delta), FACTOR * max(earlier.statistics, of_round.statistics))
    found = dict[str, str]()
    for agent in sorted(norms, key=lambda agent: (-norms[agent].delta, -norms[agent].statistics, agent)):
        if 0.0 < bound.delta < norms[agent].delta:
            found[agent] = _why("delta", norms[agent].delta, bound.delta)
        elif 0.0 < bound.statistics < norms[agent].statistics:
            found[agent] = _why("statistics", norms[agent].statistics, bound.statistics)
    return found if len(found) < len(norms) else {}


def _why(what: str, norm: float, bound: float) -> str:
    return f"the norm of its {what} is {norm:.2g}; up to {bound:.2g} is usual here"


def _deviation(variance: Array) -> NDArray[np.float64]:
    """A model may come with a negative variance; no update does."""
    deviation: NDArray[np.float64] = np.sqrt(np.maximum(variance.astype(np.float64), 0.0))
    return deviation


def _norm(arrays: Iterable[NDArray[np.floating[Any]]]) -> float:
    return math.sqrt(sum(_squared(array.reshape(-1)) for array in arrays))


def _squared(array: NDArray[np.floating[Any]]) -> float:
    """The sum of squares, piece by piece, since numbers that are in a processor's cache are several times as fast."""
    if array.size <= _PIECE:
        return float(np.add.reduce(np.square(array, dtype=np.float64)))
    return sum(_squared(array[start : start + _PIECE]) for start in range(0, array.size, _PIECE))
