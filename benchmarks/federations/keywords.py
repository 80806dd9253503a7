"""Spectrograms of 49 frames by 10 bands, as of spoken keywords: made here, a word being how its formants move."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedprune.data import Dataset

SHAPE = (49, 10, 1)
"""Frames, bands and one channel."""

WORDS = 12

_FORMANTS = 3
_NOISE = 0.8
"""Standard deviation of each value; a formant's peak is 1 on average."""
_LANGUAGE = 20_261_125
"""Seeds the words: they are the same whoever speaks them."""


def spoken(seed: int, count: int) -> Dataset:
    """`count` words, each spoken early or late, slowly or fast, high or low, loud or soft, in noise.

    x is float32 `[count, 49, 10, 1]`, y class numbers below `WORDS`, as many of each as there can be. Equal seeds give
    equal examples.
    """
    random = np.random.default_rng(seed)
    y = random.permutation(np.arange(count) % WORDS)
    knots = np.random.default_rng(_LANGUAGE).uniform(1.0, 8.0, (WORDS, _FORMANTS, 4))[y]
    frames, bands = np.arange(SHAPE[0]), np.arange(SHAPE[1])
    begin, length = random.uniform(4, 16, count), random.uniform(20, 30, count)
    place = (frames - begin[:, None]) / length[:, None]  # 0 to 1 while the word lasts
    heard = (place >= 0) & (place <= 1)
    at = np.clip(place, 0, 1) * (knots.shape[2] - 1)
    left = np.minimum(at.astype(np.int64), knots.shape[2] - 2)
    speaker = random.normal(0.0, 0.5, count)[:, None, None]
    centre = _between(knots, left, at - left) + speaker
    strength = random.uniform(0.6, 1.4, (count, _FORMANTS))[:, :, None, None]
    energy = strength * np.exp(-0.5 * np.square((bands - centre[..., None]) / 0.7))
    x = energy.sum(axis=1) * heard[..., None] + random.normal(0.0, _NOISE, (count, *SHAPE[:2]))
    return Dataset(x[..., None].astype(np.float32), y.astype(np.int64), "keywords")


def _between(knots: NDArray[np.float64], left: NDArray[np.int64], fraction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each formant's band over time `[examples, formants, frames]`, linear between its knots."""
    index = np.broadcast_to(left[:, None], (len(knots), knots.shape[1], left.shape[1]))
    low, high = np.take_along_axis(knots, index, 2), np.take_along_axis(knots, index + 1, 2)
    band: NDArray[np.float64] = low + (high - low) * fraction[:, None]
    return band
