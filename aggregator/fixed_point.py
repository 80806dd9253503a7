"""Exact sums: whole numbers that are added without rounding, so that order and grouping change no bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.reader import Reader
from fedprune.errors import ProtocolError

_DIGIT_BITS = 31
_DIGITS = 6
_DIGIT_MASK = 2**_DIGIT_BITS - 1

_PIECE = 2**15
"""Numbers that are added at once: what one step makes of them the next one finds in a processor's cache."""

MOST_WEIGHT = 2**31 - 1
"""The most that one addend may weigh: a weight times a digit then fits in 62 bits."""

SINGLE_LIMIT = 2**62
"""Up to this total one int64 holds a sum; what might exceed it is held in digits."""

_TOTAL_BYTES = 28

SUM_LIMIT = 2 ** (_DIGIT_BITS * (_DIGITS - 1) + 62)
"""2^217. No sum may come to more."""


class FixedPointSum:
    """For each coordinate the sum of weight x value, each value rounded once to a multiple of 2^-`fraction_bits`.

    A sum is one int64 for as long as the magnitudes added to it cannot exceed `SINGLE_LIMIT`, which is the usual case.
    From then on it is six digits: d0 + 2^31 d1 + ... + 2^155 d5, each in an int64 of its own, normalised after
    each addition so that all but the last lie in [0, 2^31).

    Nothing overflows. A weight is below 2^31. While a sum is single, its magnitude is at most the exact
    integer `_total` < 2^62. In digits, one addition makes of a digit at most 2^31 (what it was) + 2^62 (a weight times
    31 bits, or another sum's single int64) + 2^32 (the carry) < 2^63; and the last one, which takes what is left of
    a value, stays within 2^62 + 2 because `_total` < 2^217. When a sum turns to digits follows from the
    magnitudes that were added, not from their order.

    Example:
        >>> total = FixedPointSum((2,), fraction_bits=32)
        >>> total.add(np.array([1e-3, 1e8]), weight=10_000)
        >>> total.add(np.array([3e-3, 1e30]), weight=10_000)
        >>> total.mean(20_000).tolist()
        [0.001999999978579581, 5e+29]
    """

    def __init__(self, shape: tuple[int, ...], fraction_bits: int) -> None:
        self.shape, self.fraction_bits = shape, fraction_bits
        self._total = 0
        self._digits = [np.zeros(shape, np.int64)]

    def add(self, values: NDArray[np.floating], weight: int, scale: float = 1.0) -> None:
        """Add `weight` times `scale` times each of `values`.

        Args:
            values: float32 or float64, as many as the sum has, row by row, finite.
            weight: from 1 to `MOST_WEIGHT`.
            scale: above 0. A product with it is rounded to float64.

        Raises:
            OverflowError: the sum could exceed `SUM_LIMIT`. Nothing was changed.
            ValueError: the weight is out of its range.
        """
        if not 1 <= weight <= MOST_WEIGHT:
            raise ValueError(f"a weight is {weight}; it must be from 1 to {MOST_WEIGHT}")
        self._reserve(weight * self._largest(values, scale))
        self._add_all(values, weight, scale)

    def remove(self, values: NDArray[np.floating], weight: int, scale: float = 1.0) -> None:
        """Undo an `add` of the same numbers: the sum is then, bit for bit, that of all others."""
        self._add_all(values, -weight, scale)
        self._total -= weight * self._largest(values, scale)
        if self._total < SINGLE_LIMIT and len(self._digits) > 1:
            single = np.zeros_like(self._digits[0])
            for digit in reversed(self._digits):  # what overflows here comes back, since the whole fits
                single <<= _DIGIT_BITS
                single += digit
            self._digits = [single]

    def _largest(self, values: NDArray[np.floating], scale: float) -> int:
        """The largest magnitude, as a whole multiple; `round` rounds as `numpy.rint` does."""
        largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
        return round(largest * scale * 2.0**self.fraction_bits)

    def _add_all(self, values: NDArray[np.floating], weight: int, scale: float) -> None:
        flat, digits = values.reshape(-1), [digit.reshape(-1) for digit in self._digits]
        if flat.size <= _PIECE:
            _add_fixed(digits, self._fixed(flat, scale), weight)
            return
        for start in range(0, flat.size, _PIECE):
            piece = slice(start, start + _PIECE)
            _add_fixed([digit[piece] for digit in digits], self._fixed(flat[piece], scale), weight)

    def _fixed(self, values: NDArray[np.floating], scale: float) -> NDArray[np.float64]:
        """Whole multiples of 2^-`fraction_bits`."""
        fixed = values.astype(np.float64)
        fixed *= scale * 2.0**self.fraction_bits  # as exact as one after the other: a power of two rounds nothing
        return np.rint(fixed, out=fixed)

    def encode(self) -> bytes:
        """The sum as bytes: a byte for the number of digits, 28 for the magnitudes that were added, little-endian, then
        the digits, the lowest first, each as int64."""
        head = bytes([len(self._digits)]) + self._total.to_bytes(_TOTAL_BYTES, "little")
        return head + b"".join(digits.astype("<i8", copy=False).tobytes() for digits in self._digits)

    @classmethod
    def read(cls, reader: Reader, shape: tuple[int, ...], fraction_bits: int) -> FixedPointSum:
        """Read what `encode` wrote. Raises `ProtocolError` for what no sum of this shape can be."""
        read = cls(shape, fraction_bits)
        (count,) = reader.unpack("B")
        read._total = int.from_bytes(reader.take(_TOTAL_BYTES), "little")
        if read._total >= SUM_LIMIT or count != (1 if read._total < SINGLE_LIMIT else _DIGITS):
            raise ProtocolError(f"a sum of magnitudes up to {read._total} in {count} digits is none")
        read._digits = [reader.array(np.dtype(np.int64), math.prod(shape)).reshape(shape) for _ in range(count)]
        *lower, last = read._digits
        most = (read._total >> _DIGIT_BITS * len(lower)) + len(lower)
        if last.max(initial=0) > most or last.min(initial=0) < -most:
            raise ProtocolError("a sum exceeds the magnitudes that were added to it")
        if any(digit.min(initial=0) < 0 or digit.max(initial=0) > _DIGIT_MASK for digit in lower):
            raise ProtocolError("a digit of a sum is out of its range")
        return read

    @property
    def magnitude(self) -> int:
        """The most that any of its numbers can be, by what was added, in multiples of 2^-`fraction_bits`."""
        return self._total

    @property
    def has_negative(self) -> bool:
        """True where one of its numbers is below 0."""
        return bool(self._digits[-1].min(initial=0) < 0)

    def merge(self, other: FixedPointSum) -> None:
        """Add another sum of the same shape and fraction bits. Raises what `add` does."""
        self._reserve(other._total)
        for digit, addend in zip(self._digits, other._digits, strict=False):
            digit += addend
        _carry(self._digits)

    def mean_added_to(self, values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        """`values` and the `mean` together, rounded once, piece by piece: float64 of all would take twice their memory.

        Args:
            values: as many as the sum has; of their shape is what is returned.
            count: 1 or more.
        """
        moved, flat = np.empty(values.size, np.float32), values.reshape(-1)
        for start in range(0, flat.size, _PIECE):
            piece = slice(start, start + _PIECE)
            moved[piece] = flat[piece] + self._values(piece) / count
        return moved.reshape(values.shape)

    def mean(self, count: int | NDArray[np.int64]) -> NDArray[np.float64]:
        """The sum / `count`, with a relative error of a few 2^-53; 0 where `count` is 0."""
        values = self._values(slice(None)).reshape(self._digits[0].shape)
        return np.divide(values, count, out=np.zeros_like(values), where=np.asarray(count) > 0)

    def _values(self, piece: slice) -> NDArray[np.float64]:
        """A piece of the sum, in one dimension."""
        lowest, *higher = (digits.reshape(-1)[piece] for digits in self._digits)
        values = np.zeros(lowest.shape)
        for digit in (*reversed(higher), lowest):
            values = np.ldexp(values, _DIGIT_BITS) + digit
        return np.ldexp(values, -self.fraction_bits)

    def _reserve(self, magnitude: int) -> None:
        """Make room for an addend of that magnitude."""
        total = self._total + magnitude
        if total >= SUM_LIMIT:
            raise OverflowError("the sum could exceed 2^217")
        self._total = total
        if total >= SINGLE_LIMIT and len(self._digits) == 1:
            self._digits += [np.zeros_like(self._digits[0]) for _ in range(_DIGITS - 1)]
            _carry(self._digits)


def _add_fixed(digits: Sequence[NDArray[np.int64]], fixed: NDArray[np.float64], weight: int) -> None:
    """Add `weight` times whole numbers to a piece of the digits."""
    *lower, last = digits
    for digit in lower:
        above = np.trunc(np.ldexp(fixed, -_DIGIT_BITS))
        digit += (fixed - np.ldexp(above, _DIGIT_BITS)).astype(np.int64) * weight
        fixed = above
    addend = fixed.astype(np.int64)
    addend *= weight
    last += addend
    if lower:
        _carry(digits)


def _carry(digits: Sequence[NDArray[np.int64]]) -> None:
    for digit, next_digit in pairwise(digits):
        next_digit += digit >> _DIGIT_BITS
        digit &= _DIGIT_MASK
