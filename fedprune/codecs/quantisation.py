"""Stochastic quantisation: values rounded up or down by chance, so that they are right on average.

Alistarh et al. 2017 ("QSGD", arXiv 1610.02132); Konecny et al. 2016 (section 3, arXiv 1610.05492).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedprune.codecs.integers import Codes
from fedprune.codecs.links import Key, Rounding, State, Support, Tensors, Vector
from fedprune.codecs.reader import Reader
from fedprune.model.randomness import Keyed

_BITS = (8, 4, 2)


@dataclass(frozen=True)
class Quantisation(Rounding):
    """Rounds each value to one of the two nearest multiples of its tensor's scale, with the nearer one the likelier.

    The expectation is the value itself. Only a tensor's largest magnitude is rounded for certain, to the largest code,
    which is off by at most 2^-16 of it.

    Example:
        >>> sent, _, _ = Quantisation(2).apply({"bias": np.float32([1, 0, -1])}, {}, {}, Key(1, 0, "pi-1"))
        >>> sent["bias"].tolist()
        [1.0, 0.0, -1.0]
    """

    bits: int

    def __post_init__(self) -> None:
        if self.bits not in _BITS:
            raise ValueError(f"quantise({self.bits}): the bits must be 8, 4 or 2")

    def apply(self, tensors: Tensors, support: Support, state: State, key: Key) -> tuple[Tensors, Support, State]:
        stream = key.stream("quantisation")
        return {name: self._rounded(vector, stream) for name, vector in tensors.items()}, support, state

    def encode(self, vectors: Sequence[Vector]) -> bytes:
        """Exact for what `apply` made."""
        return Codes(self.bits).encode(vectors)

    def read(self, reader: Reader, counts: Sequence[int]) -> list[Vector]:
        return Codes(self.bits).read(reader, counts)

    def _rounded(self, vector: Vector, stream: Keyed) -> Vector:
        codes = Codes(self.bits)
        scale = codes.scale(vector)
        chance = stream.uniform(vector.size, 0.0, 1.0)
        if not scale:
            return np.zeros_like(vector)
        exact = vector.astype(np.float64) / np.float64(scale)
        rounded = np.floor(exact + chance)
        magnitudes = np.abs(vector)
        rounded = np.where(magnitudes == magnitudes.max(initial=0.0), np.copysign(codes.largest, exact), rounded)
        return rounded.astype(np.float32) * scale
