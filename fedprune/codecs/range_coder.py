"""An adaptive binary range coder: bits as parts of an interval, with integer counters for their probabilities.

Martin 1979 ("Range encoding: an algorithm for removing redundancy from a digitised message"). All of it is integer
arithmetic on 32 bits, so that every machine writes and reads the same bytes.
"""

from __future__ import annotations

from fedprune.errors import ProtocolError

_WHOLE = 2**32
SMALLEST_WIDTH = 2**24
"""Of the interval: it is widened below it, by a byte."""

LARGEST_TOTAL = 1024
"""Counters are halved beyond it, so that what came lately counts more."""

MOST_PARTS = 2**20
"""Numbers that may be parted at once: with more of them the parts would not be as large as they should be."""

_MOST_PLAIN_BITS = 16
"""Bits that are taken at once where both values are as likely."""


class Chance:
    """The counters of one kind of bit: (2 n + 1) for each value, n times seen (Krichevsky and Trofimov 1981). That of
    the zeros, and both together."""

    __slots__ = ("total", "zeros")

    def __init__(self, zeros: int = 1, total: int = 2) -> None:
        """With other numbers than these it begins with what is expected."""
        self.zeros, self.total = zeros, total

    def see(self, bit: int) -> None:
        zeros, total = self.zeros if bit else self.zeros + 2, self.total + 2
        if total > LARGEST_TOTAL:
            ones = (total - zeros + 1) // 2
            zeros = (zeros + 1) // 2
            total = zeros + ones
        self.zeros, self.total = zeros, total


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
        self._low, self._width = 0, _WHOLE - 1
        self._written = bytearray()

    def bit(self, chance: Chance, bit: int) -> None:
        """Write a bit by its chance, which learns of it."""
        zeros = self._width * chance.zeros // chance.total
        if bit:
            self._low += zeros
            self._width -= zeros
        else:
            self._width = zeros
        chance.see(bit)
        self._normalise()

    def plain(self, number: int, bits: int) -> None:
        """Write a number of so many bits, all numbers being as likely."""
        while bits:
            taken = min(bits, _MOST_PLAIN_BITS)
            bits -= taken
            self._width >>= taken
            self._low += (number >> bits & (1 << taken) - 1) * self._width
            self._normalise()

    def part(self, start: int, size: int, whole: int) -> None:
        """Write that part of the numbers below `whole`, all as likely, that begins at `start`."""
        self._width //= whole
        self._low += start * self._width
        self._width *= size
        self._normalise()

    def finish(self) -> bytes:
        """The bytes of all that was written: the fewest that a decoder needs, which takes zeros for what follows."""
        self._low = _shortest(self._low, self._width)
        self._carry()
        return bytes(self._written + self._low.to_bytes(4, "big")).rstrip(b"\0")

    def _normalise(self) -> None:
        self._carry()
        while self._width < SMALLEST_WIDTH:
            self._written.append(self._low >> 24)
            self._low = self._low << 8 & _WHOLE - 1
            self._width <<= 8

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
    """Reads what `RangeEncoder` wrote, if asked for the same in the same order. Any bytes give bits, without end.

    `width` is that of the interval, `code` how far above its lower end the bytes lie, `at` the number of `data`'s next
    byte: for `fedprune.codecs.gaps`, which reads with all of it in local variables.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 4
        self.code, self.width = int.from_bytes(data[:4].ljust(4, b"\0"), "big"), _WHOLE - 1

    def bit(self, chance: Chance) -> int:
        """Read a bit by its chance, which learns of it."""
        zeros = self.width * chance.zeros // chance.total
        bit = int(self.code >= zeros)
        if bit:
            self.code -= zeros
            self.width -= zeros
        else:
            self.width = zeros
        chance.see(bit)
        self._normalise()
        return bit

    def plain(self, bits: int) -> int:
        """Read a number of so many bits."""
        number = 0
        while bits:
            taken = min(bits, _MOST_PLAIN_BITS)
            bits -= taken
            self.width >>= taken
            part = self.code // self.width
            if part >> taken:
                raise ProtocolError("no encoder writes these bytes")
            self.code -= part * self.width
            number = number << taken | part
            self._normalise()
        return number

    def finish(self) -> None:
        """Raise `ProtocolError` unless the bytes are those that an encoder leaves of what was read.

        The interval is the encoder's, and `code` is how far above its lower end the bytes lie. So they tell that end,
        and whether they are what `RangeEncoder.finish` takes of the interval: nothing has to be written again.
        """
        window = int.from_bytes(self.data[self.at - 4 : self.at].ljust(4, b"\0"), "big")
        low = (window - self.code) % _WHOLE
        is_whole = len(self.data) <= self.at and not self.data.endswith(b"\0")
        if not is_whole or _shortest(low, self.width) - low != self.code:
            raise ProtocolError("the bytes are not those that an encoder writes for this")

    def _normalise(self) -> None:
        while self.width < SMALLEST_WIDTH:
            byte = self.data[self.at] if self.at < len(self.data) else 0
            self.at += 1
            self.code = self.code << 8 | byte
            self.width <<= 8


def _shortest(low: int, width: int) -> int:
    """Of the numbers from `low` to below `low` + `width` that end with the most zero bytes, the least."""
    bits = next(bits for bits in (32, 24, 16, 8, 0) if -(-low >> bits) << bits < low + width)
    return -(-low >> bits) << bits
