"""Exact sums: whole numbers that are added without rounding, so that order and grouping change no bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_DIGIT_BITS = 31
_DIGITS = 6
_DIGIT_MASK = 2**_DIGIT_BITS - 1

MOST_WEIGHT = 2**31 - 1
"""The most that one addend may weigh: a weight times a digit then fits in 62 bits."""

SINGLE_LIMIT = 2**62
"""Up to this total one int64 holds a sum; what might exceed it is held in digits."""

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
        self._fraction_bits = fraction_bits
        self._total = 0
        self._digits = [np.zeros(shape, np.int64)]

    def add(self, values: NDArray[np.float64], weight: int) -> None:
        """Add `weight` times each of `values`.

        Args:
            values: float64 of the sum's shape, finite.
            weight: from 1 to `MOST_WEIGHT`.

        Raises:
            OverflowError: the sum could exceed `SUM_LIMIT`. Nothing was changed.
            ValueError: the weight is out of its range.
        """
        if not 1 <= weight <= MOST_WEIGHT:
            raise ValueError(f"a weight is {weight}; it must be from 1 to {MOST_WEIGHT}")
        fixed = np.rint(np.ldexp(values, self._fraction_bits))
        largest = max(float(fixed.max(initial=0.0)), -float(fixed.min(initial=0.0)))
        self._reserve(weight * int(largest))
        if len(self._digits) == 1:
            self._digits[0] += fixed.astype(np.int64) * weight
            return
        for digit in self._digits[:-1]:
            above = np.trunc(np.ldexp(fixed, -_DIGIT_BITS))
            digit += (fixed - np.ldexp(above, _DIGIT_BITS)).astype(np.int64) * weight
            fixed = above
        self._digits[-1] += fixed.astype(np.int64) * weight
        self._carry()

    def merge(self, other: FixedPointSum) -> None:
        """Add another sum of the same shape and fraction bits. Raises what `add` does."""
        self._reserve(other._total)
        for digit, addend in zip(self._digits, other._digits, strict=False):
            digit += addend
        self._carry()

    def mean(self, count: int | NDArray[np.int64]) -> NDArray[np.float64]:
        """The sum / `count`, with a relative error of a few 2^-53; 0 where `count` is 0."""
        values = np.zeros(self._digits[0].shape)
        for digit in reversed(self._digits):
            values = np.ldexp(values, _DIGIT_BITS) + digit
        values = np.ldexp(values, -self._fraction_bits)
        return np.divide(values, count, out=np.zeros_like(values), where=np.asarray(count) > 0)

    def _reserve(self, magnitude: int) -> None:
        """Make room for an addend of that magnitude."""
        total = self._total + magnitude
        if total >= SUM_LIMIT:
            raise OverflowError("the sum could exceed 2^217")
        self._total = total
        if total >= SINGLE_LIMIT and len(self._digits) == 1:
            self._digits += [np.zeros_like(self._digits[0]) for _ in range(_DIGITS - 1)]
            self._carry()

    def _carry(self) -> None:
        for digit, next_digit in zip(self._digits, self._digits[1:], strict=False):
            next_digit += digit >> _DIGIT_BITS
            digit &= _DIGIT_MASK
