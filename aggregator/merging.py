"""Merging: updates are folded one by one into exact sums, so that order and grouping change no bit.

Memory does not grow with the number of agents, and two aggregates of the same round merge into one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.fixed_point import MOST_WEIGHT, FixedPointSum
from fedprune.codecs import Update
from fedprune.codecs.reader import Reader, naming
from fedprune.codecs.update import LARGEST_VALUE
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Array, Mask, TensorClass, TensorTable, Weights
from fedprune.pruning.masks import take_kept
from fedprune.pruning.sparse_weights import SparseWeights

FRACTION_BITS = 32
"""Weights and deltas are rounded to multiples of 2^-32: less than half a float32 step of weights above 2^-9."""

STATISTICS_FRACTION_BITS = 22
"""Moments are rounded to multiples of 2^-22."""

MOST_EXAMPLES = MOST_WEIGHT
"""The most examples that one update may weigh."""

MOST_UPDATES = 2**24
"""The most updates of a round, about 17 million."""

MOST_PART_UPDATES = 2**18
"""The most updates of a sub-gateway's part, more than agents can wait at one: a hostile one leaves room for others."""

_Fold = Callable[[FixedPointSum, NDArray[np.floating], int, float], None]


@dataclass(frozen=True, eq=False)
class AggregateResult:
    """The result of a round: the merged weights and statistics, where a weight may be kept, and how much went in."""

    weights: Weights
    mask: Mask
    updates: int
    examples: int


class Aggregate:
    """The running sums of one round's updates, all relative to the same `base`.

    Under a mask that all share the examples-weighted mean delta is added to `exact`, the gateway's unrounded weights
    (FedAvg, McMahan et al. 2017, algorithm 1). Under the agents' own masks m_k the merged weight is
    sum(n_k m_k w_k) / sum(n_k m_k) with w_k = base + delta_k, and 0 where no agent keeps it. BatchNorm
    statistics are pooled, with means d_k = mu_k - base taken from the base's, where squares are small:
    mean = base + sum(n_k d_k) / n, variance = sum(n_k (var_k + d_k^2)) / n - (mean - base)^2.

    Room never runs out, whatever the base and the cohort: updates that `check_update` passed hold at most
    `LARGEST_VALUE` = 2^40 and variances of 2^80. A weight base + scale x delta is then below 2^129 and, with 32
    fraction bits, 2^161; a second moment is at most 2^80 + (2^40 + 2^40)^2 < 2^83, with 22 fraction bits 2^105. Times
    `MOST_EXAMPLES` < 2^31 and `MOST_UPDATES` = 2^24 the largest sum is below 2^216, within `fixed_point.SUM_LIMIT`;
    and examples number less than 2^55.

    Example:
        >>> from fedprune.model.tensors import TensorSpec
        >>> table = TensorTable((TensorSpec("bias", (1,), "float32", TensorClass.DENSE, "dense"),))
        >>> base = {"bias": np.array([1.0], np.float32)}
        >>> aggregate = Aggregate(table, base, known_mask={})
        >>> aggregate.add(Update({"bias": np.array([0.5], np.float32)}, {}, {}), examples=30)
        >>> aggregate.add(Update({"bias": np.array([-0.5], np.float32)}, {}, {}), examples=10)
        >>> aggregate.result(base).weights["bias"].tolist()
        [1.25]
    """

    def __init__(self, table: TensorTable, base: Weights, known_mask: Mask | None) -> None:
        """The sums of no updates yet.

        Args:
            table: the task's tensor table.
            base: the global model that agents trained from, by tensor name.
            known_mask: the mask that all share; None where each update brings its agent's own.
        """
        self._table = table
        self._base = base if known_mask is not None else dict(base)
        self._known_mask = known_mask
        self._updates = 0
        self._examples = 0
        # A base beyond the bound (an initial weight may be anything) would make squares that have no room.
        self._origin = {name: np.clip(base[name], -LARGEST_VALUE, LARGEST_VALUE) for name, _ in table.moments}
        shared = {} if known_mask is None else {name: (int(kept.sum()),) for name, kept in known_mask.items()}
        self._trained = {spec.name: spec.shape for spec in table.of(TensorClass.PRUNABLE, TensorClass.DENSE)}
        self._sums = {
            name: FixedPointSum(shared.get(name, shape), FRACTION_BITS) for name, shape in self._trained.items()
        }
        for name in (name for moments in table.moments for name in moments):
            self._sums[name] = FixedPointSum(base[name].shape, STATISTICS_FRACTION_BITS)
        own = table.of(TensorClass.PRUNABLE) if known_mask is None else ()
        self._kept = {spec.name: np.zeros(spec.shape, np.int64) for spec in own}

    def add(self, update: Update, examples: int, scale: float = 1.0) -> None:
        """Fold in one update.

        Args:
            update: one that `check_update` passed.
            examples: what it weighs, from 1 to `MOST_EXAMPLES`.
            scale: what its delta is multiplied by, above 0 and up to 2^40.

        Raises:
            OverflowError: there is no room; only unchecked updates, or more than `MOST_UPDATES`, can take it all.
            ValueError: the examples are out of their range.
        """
        self._fold(update, examples, scale, FixedPointSum.add)

    def remove(self, update: Update, examples: int) -> None:
        """Take out an update that was added so: what is left is, bit for bit, what all others make together."""
        self._fold(update, examples, 1.0, FixedPointSum.remove)

    def _fold(self, update: Update, examples: int, scale: float, fold: _Fold) -> None:
        signed = examples if fold is FixedPointSum.add else -examples
        for name, delta in update.delta.items():
            if name in self._kept:
                fold(self._sums[name], self._weights(name, update, scale), examples, 1.0)
                self._kept[name] += np.where(update.mask[name], signed, 0)
            else:
                fold(self._sums[name], delta, examples, scale)
        for mean, variance in self._table.moments:
            shift = update.statistics[mean].astype(np.float64) - self._origin[mean]
            fold(self._sums[mean], shift, examples, 1.0)
            fold(self._sums[variance], update.statistics[variance].astype(np.float64) + np.square(shift), examples, 1.0)
        self._updates += 1 if signed > 0 else -1
        self._examples += signed

    @property
    def examples(self) -> int:
        """How much all updates together weigh."""
        return self._examples

    def merge(self, other: Aggregate) -> None:
        """Fold in another aggregate of the same round. Raises what `add` does."""
        for name, total in self._sums.items():
            total.merge(other._sums[name])
        for name, kept in self._kept.items():
            kept += other._kept[name]
        self._updates += other._updates
        self._examples += other._examples

    def check_bounds(self) -> None:
        """Raise `ProtocolError` unless updates that `check_update` passed, under a mask that all share, can add up to
        these sums. So whoever made them takes no more room of others than its examples, nor than a part's updates."""
        if self._updates > MOST_PART_UPDATES:
            raise ProtocolError(f"it is of {self._updates} updates, and a part of {MOST_PART_UPDATES} at most")
        means = {mean for mean, _ in self._table.moments}
        for name, total in self._sums.items():
            if name in self._trained:
                largest = LARGEST_VALUE
            else:  # a shift from the base, or a variance and the square of one
                largest = 2 * LARGEST_VALUE if name in means else 8 * LARGEST_VALUE**2
            if total.magnitude > self._examples * ((int(largest) << total.fraction_bits) + 1):
                raise ProtocolError(f"sum of {name}: it is beyond what its {self._examples} examples can come to")
        for _, variance in self._table.moments:
            if self._sums[variance].has_negative:
                raise ProtocolError(f"sum of {variance}: a second moment is below 0")

    def encode(self) -> bytes:
        """The sums as bytes: `uint32` updates, `uint64` examples, then those of each trained tensor and of the moments,
        in table order (`FixedPointSum.encode`). With own masks the examples that keep each weight follow, int64.
        """
        head = struct.pack("<IQ", self._updates, self._examples)
        kept = (array.astype("<i8", copy=False).tobytes() for array in self._kept.values())
        return b"".join([head, *(total.encode() for total in self._sums.values()), *kept])

    @classmethod
    def read(cls, reader: Reader, table: TensorTable, base: Weights, known_mask: Mask | None) -> Aggregate:
        """Read what `encode` wrote, of sums relative to the same base and mask. Raises `ProtocolError` for other
        bytes."""
        read = cls(table, base, known_mask)
        read._updates, read._examples = reader.unpack("IQ")
        if not read._updates <= read._examples <= read._updates * MOST_EXAMPLES or read._updates > MOST_UPDATES:
            raise ProtocolError(f"{read._updates} updates of {read._examples} examples are no round's")
        for name, total in read._sums.items():
            with naming(f"sum of {name}"):
                read._sums[name] = FixedPointSum.read(reader, total.shape, total.fraction_bits)
        for name, kept in read._kept.items():
            read._kept[name] = reader.array(np.dtype(np.int64), kept.size).reshape(kept.shape)
            if read._kept[name].min(initial=0) < 0 or read._kept[name].max(initial=0) > read._examples:
                raise ProtocolError(f"weights of {name} are kept by more examples than there are")
        return read

    def result(self, exact: Weights) -> AggregateResult:
        """Merge the updates, of which there must be one at least.

        Args:
            exact: the gateway's unrounded weights, which deltas are added to; it also gives what no update changes.

        Returns:
            The merged weights, float32, in table order, 0 where the mask prunes. The mask is the one that all share;
            with own masks, where any agent keeps a weight.
        """
        merged = {name: self._merged(name, exact[name]) for name in exact} | self._pooled()
        if self._known_mask is not None:
            return AggregateResult(
                SparseWeights(merged, self._known_mask), self._known_mask, self._updates, self._examples
            )
        union = {name: kept > 0 for name, kept in self._kept.items()}
        return AggregateResult(merged, union, self._updates, self._examples)

    def _merged(self, name: str, exact: Array) -> Array:
        """The merged values of a tensor: of a mask that all share those that it keeps, else all."""
        if name not in self._trained:
            return exact
        if name in self._kept:
            return self._sums[name].mean(self._kept[name]).astype(np.float32)
        if self._known_mask is not None and name in self._known_mask:
            exact = take_kept(exact, self._known_mask[name])
        return self._sums[name].mean_added_to(exact, self._examples)

    def _weights(self, name: str, update: Update, scale: float) -> NDArray[np.float64]:
        """An agent's own weights of tensor `name`, 0 where its mask prunes them."""
        base, kept = self._base[name], update.mask[name]
        weights = update.whole(name, base.shape).astype(np.float64)
        weights *= scale
        weights += base
        weights *= kept
        return weights

    def _pooled(self) -> dict[str, Array]:
        pooled: dict[str, Array] = {}
        for mean, variance in self._table.moments:
            shift = self._sums[mean].mean(self._examples)
            second = self._sums[variance].mean(self._examples)
            pooled[mean] = (self._origin[mean] + shift).astype(np.float32)
            pooled[variance] = np.maximum(second - np.square(shift), 0.0).astype(np.float32)
        return pooled
