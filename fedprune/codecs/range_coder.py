"""An adaptive binary range coder: bits as parts of an interval, with integer counters for their probabilities.

Martin 1979 ("Range encoding: an algorithm for removing redundancy from a digitised message"). All of it is integer
arithmetic on 32 bits, so that every machine writes and reads the same bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from fedprune.errors import ProtocolError

_WHOLE = 2**32
_SMALLEST_RANGE = 2**24
_MOST_COUNTED = 1024
"""Counters are halved beyond it, so that what came lately counts more."""

MOST_PARTS = 2**20
"""Numbers that may be parted at once: with more of them the parts would not be as large as they should be."""

_MOST_PLAIN_BITS = 16
"""Bits that are taken at once where both values are as likely."""


class Chance:
    """The counters of one kind of bit: (2 n + 1) for each value, n times seen (Krichevsky and Trofimov 1981)."""

    __slots__ = ("ones", "zeros")

    def __init__(self) -> None:
        self.zeros = self.ones = 1

    def see(self, bit: int) -> None:
        if bit:
            self.ones += 2
        else:
            self.zeros += 2
        if self.zeros + self.ones > _MOST_COUNTED:
            self.zeros, self.ones = (self.zeros + 1) // 2, (self.ones + 1) // 2


class RangeEncoder:
    """Writes bits.

    Example:
        >>> encoder, chance = RangeEncoder(), Chance()
        >>> for bit in [0] * 100 + [1]:
        ...     encoder.bit(chance, bit)
        >>> len(encoder.finish())
        2
    """

    def __init__(self) -> None:
        self._low, self._range = 0, _WHOLE - 1
        self._written = bytearray()

    def bit(self, chance: Chance, bit: int) -> None:
        """Write a bit by its chance, which learns of it."""
        zeros = self._range * chance.zeros // (chance.zeros + chance.ones)
        if bit:
            self._low += zeros
            self._range -= zeros
        else:
            self._range = zeros
        chance.see(bit)
        self._normalise()

    def plain(self, number: int, bits: int) -> None:
        """Write a number of so many bits, all numbers being as likely."""
        while bits:
            taken = min(bits, _MOST_PLAIN_BITS)
            bits -= taken
            self._range >>= taken
            self._low += (number >> bits & (1 << taken) - 1) * self._range
            self._normalise()

    def unary(self, chances: Sequence[Chance], number: int) -> None:
        """Write a number in unary: so many 1s, then a 0, each by the chance of its place; the last one serves all that
        follow."""
        last = len(chances) - 1
        for place in range(number):
            self.bit(chances[min(place, last)], 1)
        self.bit(chances[min(number, last)], 0)

    def part(self, start: int, size: int, whole: int) -> None:
        """Write that part of the numbers below `whole`, all as likely, that begins at `start`."""
        self._range //= whole
        self._low += start * self._range
        self._range *= size
        self._normalise()

    def finish(self) -> bytes:
        """The bytes of all that was written: the fewest that a decoder needs, which takes zeros for what follows."""
        self._low = _shortest(self._low, self._range)
        self._carry()
        return bytes(self._written + self._low.to_bytes(4, "big")).rstrip(b"\0")

    def _normalise(self) -> None:
        self._carry()
        while self._range < _SMALLEST_RANGE:
            self._written.append(self._low >> 24)
            self._low = self._low << 8 & _WHOLE - 1
            self._range <<= 8

    def _carry(self) -> None:
        """Add what went beyond 32 bits to the bytes before."""
        if self._low < _WHOLE:
            return
        self._low -= _WHOLE
        place = len(self._written) - 1
        while self._written[place] == 0xFF:
            self._written[place] = 0
            place -= 1
        self._written[place] += 1


class RangeDecoder:
    """Reads what `RangeEncoder` wrote, if asked for the same in the same order. Any bytes give bits, without end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._next = data, 4
        self._code, self._range = int.from_bytes(data[:4].ljust(4, b"\0"), "big"), _WHOLE - 1

    def bit(self, chance: Chance) -> int:
        """Read a bit by its chance, which learns of it."""
        zeros = self._range * chance.zeros // (chance.zeros + chance.ones)
        bit = int(self._code >= zeros)
        if bit:
            self._code -= zeros
            self._range -= zeros
        else:
            self._range = zeros
        chance.see(bit)
        self._normalise()
        return bit

    def plain(self, bits: int) -> int:
        """Read a number of so many bits."""
        number = 0
        while bits:
            taken = min(bits, _MOST_PLAIN_BITS)
            bits -= taken
            self._range >>= taken
            part = self._code // self._range
            if part >> taken:
                raise ProtocolError("no encoder writes these bytes")
            self._code -= part * self._range
            number = number << taken | part
            self._normalise()
        return number

    def unary(self, chances: Sequence[Chance], most: int) -> int:
        """Read a number in unary, as `RangeEncoder.unary` writes it. Raises `ProtocolError` if it is above `most`.

        It does what `bit` does, with everything in local variables: most of the bits of a message are read here.
        """
        code, width, last, number = self._code, self._range, len(chances) - 1, 0
        while True:
            chance = chances[number if number < last else last]
            zeros, ones = chance.zeros, chance.ones
            split = width * zeros // (zeros + ones)
            is_one = code >= split
            if is_one:
                code -= split
                width -= split
                ones += 2
            else:
                width = split
                zeros += 2
            if zeros + ones > _MOST_COUNTED:
                zeros, ones = (zeros + 1) // 2, (ones + 1) // 2
            chance.zeros, chance.ones = zeros, ones
            if width < _SMALLEST_RANGE:
                self._code, self._range = code, width
                self._normalise()
                code, width = self._code, self._range
            if not is_one:
                self._code, self._range = code, width
                return number
            number += 1
            if number > most:
                raise ProtocolError(f"a number is above {most}")

    def part(self, starts: Sequence[int], low: int, high: int) -> int:
        """Read which part was written of those from `low` to below `high`, of which each begins where `starts` says and
        ends where the next one begins."""
        first = starts[low]
        width = self._range // (starts[high] - first)
        number = first + self._code // width
        if number >= starts[high]:
            raise ProtocolError("no encoder writes these bytes")
        found = bisect_right(starts, number, low, high) - 1
        start = starts[found]
        self._code -= (start - first) * width
        self._range = width * (starts[found + 1] - start)
        if self._range < _SMALLEST_RANGE:
            self._normalise()
        return found

    def finish(self) -> None:
        """Raise `ProtocolError` unless the bytes are those that an encoder leaves of what was read.

        The interval is the encoder's, and `_code` is how far above its lower end the bytes lie. So they tell that end,
        and whether they are what `RangeEncoder.finish` takes of the interval: nothing has to be written again.
        """
        window = int.from_bytes(self._data[self._next - 4 : self._next].ljust(4, b"\0"), "big")
        low = (window - self._code) % _WHOLE
        is_whole = len(self._data) <= self._next and not self._data.endswith(b"\0")
        if not is_whole or _shortest(low, self._range) - low != self._code:
            raise ProtocolError("the bytes are not those that an encoder writes for this")

    def _normalise(self) -> None:
        while self._range < _SMALLEST_RANGE:
            byte = self._data[self._next] if self._next < len(self._data) else 0
            self._next += 1
            self._code = self._code << 8 | byte
            self._range <<= 8


def _shortest(low: int, width: int) -> int:
    """Of the numbers from `low` to below `low` + `width` that end with the most zero bytes, the least."""
    bits = next(bits for bits in (32, 24, 16, 8, 0) if -(-low >> bits) << bits < low + width)
    return -(-low >> bits) << bits
