"""Random numbers that depend on what they are for, not on when, where or by which library build they are drawn.

Every participant that asks with the same key gets the same bits: `Keyed(seed, round, agent, purpose)`. numpy
promises the raw output of its Philox generator everywhere, its distributions on one build only; so the mapping
from raw integers to floats, permutations and samples is done here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Array

_Item = TypeVar("_Item")

_BLOCK = 2**14
"""Integers take twice the memory of the floats that are made of them: so many are drawn at once."""


class Keyed:
    """A stream of random numbers; calls draw from it one after another.

    The generator is Philox 4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), counter 0.
    Its 128-bit key is the first 16 bytes, little-endian, of the SHA-256 of the JSON array [seed, part, ...],
    written without spaces and in ASCII.

    Example:
        >>> Keyed(1, 0, "pi-1", "training").permutation(5).tolist()
        [1, 0, 4, 2, 3]
    """

    def __init__(self, seed: int, *parts: str | int) -> None:
        name = json.dumps([seed, *parts], separators=(",", ":")).encode()
        key = int.from_bytes(hashlib.sha256(name).digest()[:16], "little")
        self._philox = np.random.Philox(key=key)

    def integers(self, count: int) -> NDArray[np.uint64]:
        """`count` integers, uniform over all 64-bit values."""
        return self._philox.random_raw(count)

    def uniform(self, count: int, low: float, high: float) -> Array:
        """`count` float32 values, uniform over [low, high]: low + (high - low) u, u the upper 24 bits over 2^24."""
        values = np.empty(count, np.float32)
        for start in range(0, count, _BLOCK):
            block = values[start : start + _BLOCK]
            block[:] = self.integers(len(block)) >> np.uint64(40)
        values *= np.float32(2.0**-24)
        values *= np.float32(high) - np.float32(low)
        values += np.float32(low)
        return values

    def permutation(self, count: int) -> NDArray[np.int64]:
        """The numbers 0 to `count` - 1 in random order: that which sorts `count` integers, ties by index."""
        return np.argsort(self.integers(count), kind="stable").astype(np.int64, copy=False)

    def sample(self, items: Sequence[_Item], count: int) -> list[_Item]:
        """`count` different items in random order. Raises ValueError if there are fewer."""
        if count > len(items):
            raise ValueError(f"cannot sample {count} of {len(items)} items")
        return [items[index] for index in self.permutation(len(items))[:count]]
