"""Floating-point values: as they are (`fp32`), or rounded to IEEE halves (`fp16`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.links import Key, Rounding, State, Support, Tensors, Vector
from fedprune.codecs.reader import Reader
from fedprune.errors import ProtocolError

_FLOAT16_MAX = np.float32(np.finfo(np.float16).max)
_SMALLEST_NORMAL, _SUBNORMAL_STEP = np.float32(2.0**-14), np.float32(2.0**-24)
"""Of IEEE halves."""
_PIECE = 2**16
"""Values that are rounded at once."""


@dataclass(frozen=True)
class Fp32(Rounding):
    """Values as they are, 4 bytes each."""

    def apply(self, tensors: Tensors, support: Support, state: State, key: Key) -> tuple[Tensors, Support, State]:  # noqa: ARG002
        return tensors, support, state

    def encode(self, vectors: Sequence[Vector]) -> bytes:
        return b"".join(vector.astype("<f4").tobytes() for vector in vectors)

    def read(self, reader: Reader, counts: Sequence[int]) -> list[Vector]:
        return [_finite(reader.array(np.dtype(np.float32), count)) for count in counts]


@dataclass(frozen=True)
class Fp16(Rounding):
    """Values rounded to the nearest IEEE half, ties to even, 2 bytes each; those beyond +-65504 become +-65504.

    Example:
        >>> sent, _, _ = Fp16().apply({"bias": np.float32([2049, 1e6])}, {}, {}, Key(1, 0, "pi-1"))
        >>> sent["bias"].tolist()
        [2048.0, 65504.0]
    """

    def apply(self, tensors: Tensors, support: Support, state: State, key: Key) -> tuple[Tensors, Support, State]:  # noqa: ARG002
        return {name: _rounded(vector) for name, vector in tensors.items()}, support, state

    def encode(self, vectors: Sequence[Vector]) -> bytes:
        pieces = (vector[start : start + _PIECE] for vector in vectors for start in range(0, vector.size, _PIECE))
        return b"".join(_halves(piece).astype("<f2").tobytes() for piece in pieces)

    def read(self, reader: Reader, counts: Sequence[int]) -> list[Vector]:
        return [_finite(reader.array(np.dtype(np.float16), count).astype(np.float32)) for count in counts]


def _rounded(vector: Vector) -> Vector:
    rounded = np.empty_like(vector)
    for start in range(0, vector.size, _PIECE):
        rounded[start : start + _PIECE] = _halves(vector[start : start + _PIECE])
    return rounded


def _halves(vector: Vector) -> NDArray[np.float16]:
    """The nearest halves. Below the normal ones numpy's own cast is 25 times slower, and there lie small updates."""
    small = np.abs(vector) < _SMALLEST_NORMAL
    halves = np.clip(np.where(small, np.float32(0.0), vector), -_FLOAT16_MAX, _FLOAT16_MAX).astype(np.float16)
    steps = np.rint(np.abs(vector[small]) / _SUBNORMAL_STEP).astype(np.uint16)  # these are the half's own bits
    halves.view(np.uint16)[small] = steps | np.signbit(vector[small]) * np.uint16(0x8000)
    return halves


def _finite(vector: Vector) -> Vector:
    if not np.isfinite(vector).all():
        raise ProtocolError("a value is NaN or infinite")
    return vector
