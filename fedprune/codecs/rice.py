"""Golomb-Rice coding of positions: close to the entropy where kept positions are scattered at random.

The gap before each kept position is written as its upper part in unary and its lower `width` bits as they are
(Golomb 1966; Rice and Plaunt 1971), which is near-optimal for the geometric gaps of a Bernoulli mask. Lower parts
and upper parts are kept apart, so that both are coded without a loop over positions.

====================  =====================================================================================
uint32                number of kept positions
uint8                 `width`, the number of lower bits: the smallest that makes lower and upper parts shortest
ceil(count width/8)   lower parts, each with its lowest bit first
rest                  upper parts, each as that many 0 bits and a 1 bit
====================  =====================================================================================
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.reader import Reader, pack_bits
from fedprune.errors import ProtocolError

_HEADER = struct.Struct("<IB")
_Integers = NDArray[np.int64]


class Rice:
    """Positions as Golomb-Rice coded gaps, with the `width` that makes them shortest, of equal ones the smallest."""

    def encode(self, kept: NDArray[np.bool_]) -> bytes:
        gaps = _gaps(np.flatnonzero(kept))
        width = _shortest_width(gaps)
        return _HEADER.pack(gaps.size, width) + _pack_lower(gaps, width) + _pack_upper(gaps >> width)

    def length(self, kept: NDArray[np.bool_]) -> int:
        """The number of bytes that `encode` makes."""
        gaps = _gaps(np.flatnonzero(kept))
        width = _shortest_width(gaps)
        return _HEADER.size + (gaps.size * width + 7) // 8 + (gaps.size + int((gaps >> width).sum()) + 7) // 8

    def read(self, reader: Reader, size: int, most: int) -> NDArray[np.bool_]:
        count, width = reader.unpack("IB")
        # These bounds keep what follows within memory and int64, whatever the bytes say.
        if count > size or width > size.bit_length():
            raise ProtocolError(f"{count} positions with {width} lower bits do not fit in {size}")
        if count > most:
            raise ProtocolError(f"{count} positions are sent, at most {most} may be")
        lower = _read_lower(reader, count, width)
        upper = _read_upper(reader, count, most=size >> width)
        gaps = (upper << width) + lower
        positions = _positions(gaps)
        if count and positions[-1] >= size:
            raise ProtocolError(f"position {positions[-1]} does not fit in {size}")
        if width != _shortest_width(gaps):
            raise ProtocolError(f"gaps have {width} lower bits, a writer takes {_shortest_width(gaps)} for these")
        kept = np.zeros(size, np.bool_)
        kept[positions] = True
        return kept


def _gaps(positions: NDArray[np.intp]) -> _Integers:
    """The number of places before each of the rising `positions`, since the one before it."""
    gaps = positions.astype(np.int64)
    gaps[1:] -= positions[:-1] + 1
    return gaps


def _positions(gaps: _Integers) -> _Integers:
    """The inverse of `_gaps`."""
    return np.cumsum(gaps + 1) - 1


def _shortest_width(gaps: _Integers) -> int:
    widths = range(int(gaps.max(initial=0)).bit_length() + 1)
    return min(widths, key=lambda width: gaps.size * width + int((gaps >> width).sum()))


def _pack_lower(gaps: _Integers, width: int) -> bytes:
    bits = np.empty((gaps.size, width), np.uint8)
    for place in range(width):
        bits[:, place] = (gaps >> place) & 1
    return pack_bits(bits.ravel())


def _read_lower(reader: Reader, count: int, width: int) -> _Integers:
    bits = reader.bits(count * width).reshape(count, width)
    lower = np.zeros(count, np.int64)
    for place in range(width):
        lower |= bits[:, place].astype(np.int64) << place
    return lower


def _pack_upper(upper: _Integers) -> bytes:
    ends = _positions(upper)
    bits = np.zeros(ends[-1] + 1 if ends.size else 0, np.uint8)
    bits[ends] = 1
    return pack_bits(bits)


def _read_upper(reader: Reader, count: int, most: int) -> _Integers:
    """The next `count` unary numbers; `most` is the most that they may come to in all."""
    window = np.frombuffer(reader.peek((count + most + 7) // 8), np.uint8)
    ends = np.flatnonzero(np.unpackbits(window, bitorder="little"))[:count]
    if ends.size < count:
        raise ProtocolError(f"{ends.size} of {count} positions found")
    reader.bits(int(ends[-1]) + 1 if count else 0)
    return _gaps(ends)
