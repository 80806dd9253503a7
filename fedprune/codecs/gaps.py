"""Positions on a line by the gaps between them, which are measured in windows, through the range coder.

From the end of one position on the number of windows until the next is written in unary, by counters that depend on the
number before; then which of the window's places it is, each as likely as its odds. Reading is a gateway's most frequent
step in Python, so all of it is one loop over local variables; what it does is what `RangeDecoder` does.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.moved import LEAST_ODDS
from fedprune.codecs.range_coder import LARGEST_TOTAL, MOST_PARTS, SMALLEST_WIDTH, Chance, RangeDecoder, RangeEncoder
from fedprune.errors import ProtocolError

_NUMBERS, _PLACES = 4, 6
"""Numbers of windows, and places in unary numbers, that are told apart; those beyond count as the last."""

_LARGEST_SHIFT = MOST_PARTS.bit_length() - 2


class UnaryChance(Chance):
    """The counters of a place in a unary number: of a 0, which ends it, or a 1, behind which `following` counts. If the
    number ends here, `after` counts at the first place of the next one."""

    __slots__ = ("after", "following")

    def __init__(self) -> None:
        super().__init__()
        self.following: UnaryChance = self
        self.after: UnaryChance = self


def unary_chances() -> UnaryChance:
    """The counters of a message's numbers of windows, linked; the first place of its first number."""
    rows = [[UnaryChance() for _ in range(_PLACES)] for _ in range(_NUMBERS)]
    for row in rows:
        for place, chance in enumerate(row):
            chance.following = row[min(place + 1, _PLACES - 1)]
            chance.after = rows[min(place, _NUMBERS - 1)][0]
    return rows[0][0]


def write_positions(
    encoder: RangeEncoder, chance: UnaryChance, positions: NDArray[np.signedinteger], starts: NDArray[np.int64]
) -> None:
    """Write rising positions, at least one, on the line on which places begin at `starts`, and the last one ends.

    Example:
        >>> encoder, line = RangeEncoder(), np.arange(101) * LEAST_ODDS
        >>> write_positions(encoder, unary_chances(), np.array([3, 50]), line)
        >>> blob = encoder.finish()
        >>> read_positions(RangeDecoder(blob), unary_chances(), 2, line.tolist())
        [3, 50]
    """
    shift = _shift(int(starts[-1]), positions.size)
    origins = np.concatenate([[0], starts[positions[:-1] + 1]])
    numbers = (starts[positions] - origins) >> shift
    windows = origins + (numbers << shift)
    firsts = starts[np.searchsorted(starts[:-1], windows)]
    ends = starts[np.searchsorted(starts[:-1], windows + (1 << shift))]
    sizes = starts[positions + 1] - starts[positions]
    steps = numbers, starts[positions] - firsts, sizes, ends - firsts
    for number, start, size, whole in zip(*(step.tolist() for step in steps), strict=True):
        for _ in range(number):
            encoder.bit(chance, 1)
            chance = chance.following
        encoder.bit(chance, 0)
        chance = chance.after
        encoder.part(start, size, whole)


def read_positions(decoder: RangeDecoder, chance: UnaryChance, count: int, starts: Sequence[int]) -> list[int]:
    """Read so many rising positions as `write_positions` writes them. Raises `ProtocolError` for what it does not.

    A bit is a 1 if what is left of the interval above the zeros' part still reaches down to the code: how far its upper
    end lies above the code stays the same while 1s are read.
    """
    size, whole = len(starts) - 1, starts[-1]
    shift = _shift(whole, count)
    length, data, end = 1 << shift, decoder.data, len(decoder.data)
    within = length // LEAST_ODDS + 1  # places that can begin in a window
    at, code, width = decoder.at, decoder.code, decoder.width
    found = []
    position = origin = 0
    for _ in range(count):
        if origin >= whole:
            raise ProtocolError(f"a position does not fit in {size}")
        window, above = origin, width - code
        while True:
            zeros, total = chance.zeros, chance.total
            ones_width = width - width * zeros // total
            if ones_width < above:
                break
            if total <= LARGEST_TOTAL - 2:
                chance.total = total + 2
            else:
                chance.see(1)
            window += length
            if window >= whole:
                raise ProtocolError("a window lies behind the last place")
            width = ones_width
            while width < SMALLEST_WIDTH:
                above = (above << 8) - (data[at] if at < end else 0)
                width <<= 8
                at += 1
            chance = chance.following
        code, width = width - above, width - ones_width
        if total <= LARGEST_TOTAL - 2:
            chance.zeros, chance.total = zeros + 2, total + 2
        else:
            chance.see(0)
        chance = chance.after
        while width < SMALLEST_WIDTH:
            code = code << 8 | (data[at] if at < end else 0)
            width <<= 8
            at += 1
        if window > origin:
            high = position + (window - origin) // LEAST_ODDS + 1
            position = bisect_left(starts, window, position, high if high < size else size)
        high = position + within
        high = bisect_left(starts, window + length, position, high if high < size else size)
        if position == high:
            raise ProtocolError("a window holds no place")
        first = starts[position]
        width //= starts[high] - first
        part = first + code // width
        position = bisect_right(starts, part, position, high + 1)
        if position > high:
            raise ProtocolError("no encoder writes these bytes")
        found.append(position - 1)
        start, origin = starts[position - 1], starts[position]
        code -= (start - first) * width
        width *= origin - start
        while width < SMALLEST_WIDTH:
            code = code << 8 | (data[at] if at < end else 0)
            width <<= 8
            at += 1
    decoder.at, decoder.code, decoder.width = at, code, width
    return found


def _shift(whole: int, count: int) -> int:
    """The exponent of a window's length: the power of two at or below half of what there is for each position."""
    return min(max((whole // count).bit_length() - 2, 0), _LARGEST_SHIFT)
