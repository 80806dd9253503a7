"""Sensitivities of weights, from the updates that a round's agents sent: see `fedprune.pruning.scores`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aggregator.fixed_point import FixedPointSum
from aggregator.merging import FRACTION_BITS
from fedprune.codecs import Update
from fedprune.model.tensors import Array, Mask, Weights
from fedprune.pruning.masks import put_kept, take_kept
from fedprune.pruning.scores import Score, fuse_ranks


class Sensitivity:
    """The running sums of |delta| of one round's updates, or of the deltas, under a mask that all share.

    Sums are exact, so that order and grouping change no bit. Learning rates, which all agents share, are left out: only
    ratios of scores matter.
    """

    def __init__(self, mask: Mask, *, is_signed: bool) -> None:
        self._mask, self._is_signed = mask, is_signed
        self._examples = 0
        self._sums = {name: FixedPointSum((int(np.count_nonzero(kept)),), FRACTION_BITS) for name, kept in mask.items()}

    def add(self, update: Update, examples: int) -> None:
        """Fold in one update that `check_update` passed. Raises what `Aggregate.add` does."""
        for name, total in self._sums.items():
            delta = update.delta[name]
            total.add(delta if self._is_signed else np.abs(delta), examples)
        self._examples += examples

    def scores(self, weights: Weights) -> dict[str, Array]:
        """The scores of the weights that agents trained from, after one update at least.

        Args:
            weights: float32, by tensor name.

        Returns:
            For each tensor of the mask float32 of its shape, 0 where it prunes.

        Example:
            >>> sensitivity = Sensitivity({"kernel": np.array([True, True, False])}, is_signed=True)
            >>> sensitivity.add(Update({"kernel": np.float32([0.5, 0.25])}, {}, {}), examples=1)
            >>> sensitivity.add(Update({"kernel": np.float32([-0.5, 0.25])}, {}, {}), examples=1)
            >>> sensitivity.scores({"kernel": np.float32([1, -2, 0])})["kernel"].tolist()
            [0.0, 0.5, 0.0]
        """
        found = {}
        for name, kept in self._mask.items():
            magnitudes = np.abs(
                take_kept(weights[name], kept).astype(np.float64) * self._sums[name].mean(self._examples)
            )
            found[name] = put_kept(magnitudes.astype(np.float32), kept)
        return found


class RoundScores:
    """A round's scores by some of `Score`, or their ranks fused where there are several. Magnitudes are of the weights
    that agents trained from, as sensitivities are."""

    def __init__(self, wanted: Mapping[Score, float], mask: Mask) -> None:
        self._wanted, self._mask = wanted, mask
        self._sums: dict[Score, Sensitivity] = {
            score: Sensitivity(mask, is_signed=score is Score.SIGNED_SENSITIVITY)
            for score in wanted
            if score is not Score.MAGNITUDE
        }

    def add(self, update: Update, examples: int) -> None:
        """Fold in one update that `check_update` passed. Raises what `Aggregate.add` does."""
        for sums in self._sums.values():
            sums.add(update, examples)

    def scores(self, weights: Weights) -> dict[str, Array]:
        """See `Sensitivity.scores`."""
        found: dict[Score, dict[str, Array]] = {score: sums.scores(weights) for score, sums in self._sums.items()}
        if Score.MAGNITUDE in self._wanted:
            found[Score.MAGNITUDE] = {name: np.abs(weights[name]) for name in self._mask}
        if len(found) == 1:
            return next(iter(found.values()))
        return fuse_ranks([(found[score], weight) for score, weight in self._wanted.items()], self._mask)
