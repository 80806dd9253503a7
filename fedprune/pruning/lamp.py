"""LAMP, layer-adaptive magnitude pruning: every layer keeps what matters most to itself.

Lee et al. 2021 ("Layer-adaptive sparsity for the magnitude-based pruning", arXiv 2010.07611).

A weight's score is w_u^2 / sum of w_v^2 over all kept v of its layer that rank no higher than u, ranked by falling
magnitude, of equal ones by rising index; so each layer has exactly one score of 1 and none is emptied. Squares and sums
are float64, and a sum is taken in rank order, hence every machine finds the same scores.

Scores fall with the rank. So no weight needs its own: sorted magnitudes give each layer's scores, these tell how
many of each layer are among the best of all, and a cut-off of its magnitudes which ones. Of the `count` best of all no
layer has more than `count`, so only so many magnitudes of a layer are sorted. Equal scores of a layer are of equal
magnitudes, since squares of others differ by far more than float64 rounds: by rising index they are in rank order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Array, Mask

_LARGEST_SCORE = 1.0


@dataclass(frozen=True, eq=False)
class _Layer:
    """Magnitudes of a layer's kept weights `[n]`; the largest of them, falling; the sums of their squares up to each.

    A score is made of the last two when it is looked at: all of them would take as much memory again.
    """

    magnitudes: Array
    ranked: Array
    sums: NDArray[np.float64]

    def more_than(self, score: float) -> int:
        """The number of scores above `score`."""
        return bisect_left(range(self.ranked.size), True, key=lambda rank: self._score(rank) <= score)

    def at_least(self, score: float) -> int:
        """The number of scores of `score` or more."""
        return bisect_left(range(self.ranked.size), True, key=lambda rank: self._score(rank) < score)

    def _score(self, rank: int) -> float:
        magnitude, total = float(self.ranked[rank]), float(self.sums[rank])
        return magnitude * magnitude / total if total > 0.0 else 0.0

    def best(self, count: int) -> NDArray[np.bool_]:
        """Where among the kept weights those of the first `count` ranks are."""
        if not count:
            return np.zeros(self.magnitudes.size, np.bool_)
        cut = self.ranked[count - 1]
        chosen: NDArray[np.bool_] = self.magnitudes > cut
        equal = np.flatnonzero(self.magnitudes == cut)
        chosen[equal[: count - np.count_nonzero(chosen)]] = True
        return chosen


def keep_by_lamp(weights: Mapping[str, Array], count: int, previous: Mask) -> dict[str, NDArray[np.bool_]]:
    """Keep the `count` highest scores of all layers together, of equal ones those that come first.

    Args:
        weights: float32, by name of layers and of others, any shapes.
        count: at most as many as `previous` keeps.
        previous: of the layers, with their shapes; a weight that it prunes stays pruned, and counts in no sum.

    Returns:
        By name a bool array of the layer's shape, True where a weight is kept.

    Example:
        >>> weights = {"small": np.float32([0.1, 0.2]), "large": np.float32([30, 10, 20])}
        >>> full = {name: np.ones(array.shape, np.bool_) for name, array in weights.items()}
        >>> {name: kept.tolist() for name, kept in keep_by_lamp(weights, 3, full).items()}
        {'small': [False, True], 'large': [True, False, True]}
    """
    if not count:
        return {name: np.zeros(kept.shape, np.bool_) for name, kept in previous.items()}
    layers = {name: _layer(weights[name], kept, count) for name, kept in previous.items()}
    threshold = _score_of_rank(list(layers.values()), count)
    open_places = count - sum(layer.more_than(threshold) for layer in layers.values())
    mask = {}
    for name, layer in layers.items():
        above = layer.more_than(threshold)
        ties = min(open_places, layer.at_least(threshold) - above)
        open_places -= ties
        kept = np.zeros(previous[name].shape, np.bool_)
        kept[previous[name]] = layer.best(above + ties)
        mask[name] = kept
    return mask


def _layer(array: Array, kept: NDArray[np.bool_], most: int) -> _Layer:
    """A layer with its `most` largest magnitudes, or all."""
    magnitudes = largest = np.abs(array[kept])
    if most < largest.size:
        largest = np.partition(largest, largest.size - most)[largest.size - most :]
    ranked = np.sort(largest)[::-1].copy()
    sums = np.square(ranked, dtype=np.float64)
    return _Layer(magnitudes, ranked, np.cumsum(sums, out=sums))


def _score_of_rank(layers: list[_Layer], count: int) -> float:
    """The `count`-th highest score of all layers, found by halving the integers that order like float64 from 0 to 1."""
    low, high = 0, int(np.float64(_LARGEST_SCORE).view(np.int64))
    while low < high:
        middle = (low + high + 1) // 2
        score = float(np.int64(middle).view(np.float64))
        if sum(layer.at_least(score) for layer in layers) >= count:
            low = middle
        else:
            high = middle - 1
    return float(np.int64(low).view(np.float64))
