"""Sparse ternary compression: of the values that are sent, the signs and one magnitude.

Sattler et al. 2019 ("Robust and communication-efficient federated learning from non-IID data", algorithm 1, arXiv
1903.02891).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.links import Key, Places, Rounding, State, Support, Tensors, Vector
from fedprune.codecs.reader import Reader, pack_bits
from fedprune.errors import ProtocolError


@dataclass(frozen=True)
class Ternary(Rounding):
    """Replaces each value by its sign times the mean magnitude of all that are sent, of all tensors together.

    Example:
        >>> sent, _, _ = Ternary().apply({"bias": np.float32([1, -3])}, {}, {}, Key(1, 0, "pi-1"))
        >>> sent["bias"].tolist()
        [2.0, -2.0]
    """

    def apply(self, tensors: Tensors, support: Support, state: State, key: Key) -> tuple[Tensors, Support, State]:  # noqa: ARG002
        count = sum(vector.size for vector in tensors.values())
        magnitude = np.float32(_sum_of_magnitudes(tensors) / count if count else 0.0)
        return {name: np.copysign(magnitude, vector) for name, vector in tensors.items()}, support, state

    def encode(self, vectors: Sequence[Vector]) -> bytes:
        """A float32 magnitude, then a bit for each value, set where it is negative. Nothing if there are no values."""
        return encode_magnitude(vectors) + pack_bits(signs_of(vectors))

    def read(self, reader: Reader, counts: Sequence[int]) -> list[Vector]:
        magnitude = read_magnitude(reader, sum(counts))
        return signed(magnitude, reader.bits(sum(counts)), counts)


def encode_magnitude(vectors: Sequence[Vector]) -> bytes:
    """The magnitude that all values share as float32, nothing if there are no values."""
    values = next((vector for vector in vectors if vector.size), None)
    return b"" if values is None else np.abs(values[:1]).astype("<f4").tobytes()


def read_magnitude(reader: Reader, count: int) -> np.float32:
    """Read the magnitude of so many values; 0 if there are none. Raises `ProtocolError` if it is none."""
    if not count:
        return np.float32(0.0)
    magnitude = np.float32(reader.array(np.dtype(np.float32), 1)[0])
    if not 0.0 < magnitude < np.inf:
        raise ProtocolError(f"the magnitude is {magnitude}")
    return magnitude


def signs_of(vectors: Sequence[Vector]) -> Places:
    """True where a value is negative, one vector after another."""
    negative: Places = np.signbit(np.concatenate([*vectors, np.empty(0, np.float32)]))
    return negative


def signed(magnitude: np.float32, negative: NDArray[np.bool_ | np.uint8], counts: Sequence[int]) -> list[Vector]:
    """Vectors of so many values, all of that magnitude."""
    return np.split(np.where(negative, -magnitude, magnitude), np.cumsum(counts)[:-1])


def _sum_of_magnitudes(tensors: Tensors) -> float:
    """In float64 and in order, hence equal on every machine."""
    return sum(float(np.cumsum(np.abs(vector), dtype=np.float64)[-1]) for vector in tensors.values() if vector.size)
