"""Merging: updates are folded one by one into int64 fixed-point sums, so that order and grouping change no bit.

Memory does not grow with the number of agents, and two aggregates of the same round merge into one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs import Update
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Array, TensorClass, TensorTable, Weights
from fedprune.task.bundle import MaskPolicy

FRACTION_BITS = 32
"""Weights and deltas are rounded to multiples of 2^-32: less than half a float32 step of weights above 2^-9."""

STATISTICS_FRACTION_BITS = 22
"""Squares of unscaled activations need the room on the other side of the point."""

_HEADROOM = 2.0**62

_Sum = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class AggregateResult:
    """What an aggregate says: the merged weights and statistics, and how much went into them."""

    weights: dict[str, Array]
    updates: int
    examples: int


class Aggregate:
    """The running sums of one round's updates, all relative to the same `base`.

    Under a shared mask the examples-weighted mean delta is added to `exact`, the gateway's unrounded weights
    (FedAvg, McMahan et al. 2017, algorithm 1). Under the agents' own masks m_k the merged weight is
    sum(n_k m_k w_k) / sum(n_k m_k) with w_k = base + delta_k, and 0 where no agent keeps it. BatchNorm
    statistics are pooled, with means d_k = mu_k - base taken from the base's, where squares are small:
    mean = base + sum(n_k d_k) / n, variance = sum(n_k (var_k + d_k^2)) / n - (mean - base)^2.
    """

    def __init__(self, table: TensorTable, base: Weights, policy: MaskPolicy) -> None:
        self._table = table
        self._base = base
        self._policy = policy
        self._moments = _moments(table)
        self._updates = 0
        self._examples = 0
        self._bound = 0.0
        self._sums: dict[str, _Sum] = {name: np.zeros(base[name].shape, np.int64) for name in self._summed()}
        self._kept: dict[str, _Sum] = {
            spec.name: np.zeros(spec.shape, np.int64) for spec in table.of(TensorClass.PRUNABLE)
        }

    def check(self, update: Update, examples: int, most_updates: int) -> None:
        """Raise `ProtocolError` for an update that could overflow the sums of `most_updates`, or cannot be honest."""
        for _, variance in self._moments:
            if float(update.statistics[variance].min(initial=0.0)) < 0.0:
                raise ProtocolError(f"tensor {variance}: a variance is negative")
        if not _bound(self._addends(update), examples) * most_updates < _HEADROOM:
            raise ProtocolError(f"values too large to be summed over {examples} examples")

    def add(self, update: Update, examples: int) -> None:
        """Fold in one update. Raises `ProtocolError`, and changes nothing, if the sums could overflow."""
        addends = self._addends(update)
        bound = self._bound + _bound(addends, examples)
        if not bound < _HEADROOM:
            raise ProtocolError(f"values too large to be summed over {examples} examples")
        for name, fixed in addends.items():
            self._sums[name] += examples * fixed.astype(np.int64)
        for name in self._kept:
            self._kept[name] += examples * update.mask[name].astype(np.int64)
        self._bound = bound
        self._updates += 1
        self._examples += examples

    def merge(self, other: Aggregate) -> None:
        """Fold in another aggregate of the same round. Raises `ProtocolError` if the sums could overflow."""
        if not self._bound + other._bound < _HEADROOM:
            raise ProtocolError("the two aggregates together overflow the sums")
        for name, total in other._sums.items():
            self._sums[name] += total
        for name, total in other._kept.items():
            self._kept[name] += total
        self._bound += other._bound
        self._updates += other._updates
        self._examples += other._examples

    def result(self, exact: Weights) -> AggregateResult:
        """The merged weights, float32, in table order; `exact` gives what no update changes. Needs an update."""
        merged = dict(exact)
        for spec in self._table.of(TensorClass.PRUNABLE, TensorClass.DENSE):
            if self._policy is MaskPolicy.OWN and spec.kind is TensorClass.PRUNABLE:
                merged[spec.name] = _mean(self._sums[spec.name], self._kept[spec.name]).astype(np.float32)
            else:
                change = _mean(self._sums[spec.name], self._examples)
                merged[spec.name] = (exact[spec.name] + change).astype(np.float32)
        merged |= self._pooled()
        return AggregateResult(merged, self._updates, self._examples)

    def _summed(self) -> list[str]:
        floats = (TensorClass.PRUNABLE, TensorClass.DENSE, TensorClass.STATISTICS)
        return [spec.name for spec in self._table.of(*floats)]

    def _addends(self, update: Update) -> dict[str, NDArray[np.float64]]:
        """What one update adds for each example, in fixed point: whole numbers as float64, by tensor."""
        addends = {name: delta.astype(np.float64) for name, delta in update.delta.items()}
        if self._policy is MaskPolicy.OWN:
            for name in self._kept:
                addends[name] = (self._base[name].astype(np.float64) + addends[name]) * update.mask[name]
        fixed = {name: np.rint(np.ldexp(array, FRACTION_BITS)) for name, array in addends.items()}
        for mean, variance in self._moments:
            shift = update.statistics[mean].astype(np.float64) - self._base[mean]
            second = update.statistics[variance].astype(np.float64) + np.square(shift)
            fixed[mean] = np.rint(np.ldexp(shift, STATISTICS_FRACTION_BITS))
            fixed[variance] = np.rint(np.ldexp(second, STATISTICS_FRACTION_BITS))
        return fixed

    def _pooled(self) -> dict[str, Array]:
        pooled: dict[str, Array] = {}
        for mean, variance in self._moments:
            shift = _mean(self._sums[mean], self._examples, STATISTICS_FRACTION_BITS)
            second = _mean(self._sums[variance], self._examples, STATISTICS_FRACTION_BITS)
            pooled[mean] = (self._base[mean] + shift).astype(np.float32)
            pooled[variance] = np.maximum(second - np.square(shift), 0.0).astype(np.float32)
        return pooled


def _bound(fixed: dict[str, NDArray[np.float64]], examples: int) -> float:
    """An upper bound of what an update adds to any sum."""
    return examples * max((float(np.abs(array).max(initial=0.0)) for array in fixed.values()), default=0.0) + 1.0


def _mean(total: _Sum, count: int | _Sum, fraction_bits: int = FRACTION_BITS) -> NDArray[np.float64]:
    """total / count as float64, 0 where count is 0."""
    values = np.ldexp(total.astype(np.float64), -fraction_bits)
    return np.divide(values, count, out=np.zeros_like(values), where=np.asarray(count) > 0)


def _moments(table: TensorTable) -> list[tuple[str, str]]:
    """The (mean, variance) tensors of each BatchNorm layer: a layer's statistics, mean first."""
    by_layer: dict[str, list[str]] = {}
    for spec in table.of(TensorClass.STATISTICS):
        by_layer.setdefault(spec.layer, []).append(spec.name)
    return [(names[0], names[1]) for names in by_layer.values()]
