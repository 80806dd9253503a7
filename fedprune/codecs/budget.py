"""Top-k sparsification within a budget of bytes: the fewer values are alive, the larger the share that is sent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from fedprune.codecs.topk import Largest

LARGEST_SHARE = 0.35
"""Of the alive values, at most: beyond about a third top-k gains little over sending all."""

_LOG_BITS = 32
"""Binary places of logarithms, which are whole numbers here, since libraries round theirs differently. Of 2^25
values an entropy is then right to a bit."""

_REMEMBERED = 64
"""Answers that are remembered: a gateway asks the same for each update of a round."""


@dataclass(frozen=True)
class Budget(Largest):
    """Keeps the largest magnitudes, as many as `bytes` hold the positions and signs of.

    Of n alive values the k largest take n H(k / n) + k bits, H being the binary entropy; k is the largest for which
    that is no more than the budget, `LARGEST_SHARE` n at most and 1 at least.

    Example:
        >>> link = Budget(100)
        >>> [link.most(alive) for alive in (100_000, 10_000, 1_000)]
        [60, 86, 161]
    """

    bytes: int

    def __post_init__(self) -> None:
        if self.bytes < 1:
            raise ValueError(f"budget({self.bytes}): it must be 1 byte at least")

    def most(self, alive: int) -> int:
        return _most(self.bytes, alive)


def budget_of(alive: int, fraction: float) -> int:
    """The budget in bytes that holds the fraction of so many alive values.

    Example:
        >>> Budget(budget_of(100_000, 0.01)).most(100_000)
        1000
    """
    return -(-_bits(max(1, round(fraction * alive)), alive) // (8 << _LOG_BITS))


@lru_cache(maxsize=_REMEMBERED)
def _most(budget: int, alive: int) -> int:
    low, high = min(alive, 1), int(LARGEST_SHARE * alive)
    while low < high:
        middle = (low + high + 1) // 2
        if _bits(middle, alive) <= 8 * budget << _LOG_BITS:
            low = middle
        else:
            high = middle - 1
    return low


def _bits(count: int, alive: int) -> int:
    """n H(k / n) + k, times 2^`_LOG_BITS`."""
    rest = alive - count
    entropy = alive * _log2(alive) - count * _log2(count) - rest * _log2(rest)
    return entropy + (count << _LOG_BITS)


def _log2(number: int) -> int:
    """log2 times 2^`_LOG_BITS`, rounded down, by squaring; 0 of 0, as n log2 n is then."""
    if not number:
        return 0
    whole = number.bit_length() - 1
    mantissa, log = (number << 62) >> whole, whole
    for _ in range(_LOG_BITS):
        mantissa = mantissa * mantissa >> 62
        log <<= 1
        if mantissa >> 63:
            mantissa >>= 1
            log |= 1
    return log
