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

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Array, Mask

_LARGEST_SCORE = 1.0


@dataclass(frozen=True, eq=False)
class _Layer:
    """Magnitudes of a layer's weights `[n]`, -1 where pruned; the largest of them, falling; their scores, falling."""

    magnitudes: Array
    ranked: Array
    scores: NDArray[np.float64]

    def more_than(self, score: float) -> int:
        """The number of scores above `score`."""
        return int(self.scores.size - np.searchsorted(self.scores[::-1], score, side="right"))

    def at_least(self, score: float) -> int:
        """The number of scores of `score` or more."""
        return int(self.scores.size - np.searchsorted(self.scores[::-1], score, side="left"))

    def best(self, count: int) -> NDArray[np.bool_]:
        """Where the weights of the first `count` ranks are."""
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
        weights: float32, by name of layers, any shapes.
        count: at most as many as `previous` keeps.
        previous: of the same names and shapes; a weight that it prunes stays pruned, and counts in no sum.

    Returns:
        By name a bool array of the layer's shape, True where a weight is kept.

    Example:
        >>> weights = {"small": np.float32([0.1, 0.2]), "large": np.float32([30, 10, 20])}
        >>> full = {name: np.ones(array.shape, np.bool_) for name, array in weights.items()}
        >>> {name: kept.tolist() for name, kept in keep_by_lamp(weights, 3, full).items()}
        {'small': [False, True], 'large': [True, False, True]}
    """
    if not count:
        return {name: np.zeros(array.shape, np.bool_) for name, array in weights.items()}
    layers = {name: _layer(array, previous[name], count) for name, array in weights.items()}
    threshold = _score_of_rank(list(layers.values()), count)
    open_places = count - sum(layer.more_than(threshold) for layer in layers.values())
    mask = {}
    for name, layer in layers.items():
        above = layer.more_than(threshold)
        ties = min(open_places, layer.at_least(threshold) - above)
        open_places -= ties
        mask[name] = layer.best(above + ties).reshape(weights[name].shape)
    return mask


def _layer(array: Array, kept: NDArray[np.bool_], most: int) -> _Layer:
    """A layer with its `most` largest magnitudes, or all."""
    magnitudes = np.abs(array.reshape(-1))
    largest = magnitudes[kept.reshape(-1)]
    magnitudes[~kept.reshape(-1)] = -1.0
    if most < largest.size:
        largest = np.partition(largest, largest.size - most)[largest.size - most :]
    ranked = np.sort(largest)[::-1].copy()
    squares = np.square(ranked, dtype=np.float64)
    sums = np.cumsum(squares)
    scores = np.divide(squares, sums, out=squares, where=sums > 0.0)
    return _Layer(magnitudes, ranked, scores)


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
