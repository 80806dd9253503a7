"""The positions stage: which coordinates of a vector are sent, in one of several codings."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.reader import Reader, pack_bits
from fedprune.codecs.rice import Rice
from fedprune.codecs.stages import ABSENT, Restore, Vector
from fedprune.errors import ProtocolError
from fedprune.pruning.masks import put_kept, take_kept

Kept = NDArray[np.bool_]
"""For each coordinate of a vector, whether it is sent; one dimension."""


class Coding(Protocol):
    """Positions as bytes."""

    def encode(self, kept: Kept) -> bytes: ...

    def read(self, reader: Reader, size: int) -> Kept:
        """The positions of a vector of `size`. Raises `ProtocolError` for bytes that `encode` could not have left."""


class Positions:
    """A stage that leaves behind where a vector is present, and hands on the values that are.

    Example:
        >>> side, rest = Positions(Bitmap()).encode(np.array([1.0, ABSENT, 2.0], np.float32))
        >>> side, rest.tolist()
        (b'\\x05', [1.0, 2.0])
    """

    def __init__(self, coding: Coding) -> None:
        self._coding = coding

    def encode(self, vector: Vector) -> tuple[bytes, Vector]:
        absent = np.isnan(vector)
        kept = np.logical_not(absent, out=absent)
        return self._coding.encode(kept), take_kept(vector, kept)

    def read(self, reader: Reader, count: int) -> tuple[Restore, int]:
        kept = self._coding.read(reader, count)
        return lambda values: put_kept(values, kept, fill=float(ABSENT)), int(np.count_nonzero(kept))


class Known:
    """No bytes: both sides know the positions."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def encode(self, kept: Kept) -> bytes:
        if not np.array_equal(kept, self._kept):
            raise ValueError("the vector is not present exactly at the known positions")
        return b""

    def read(self, reader: Reader, size: int) -> Kept:  # noqa: ARG002 - there is nothing to read
        return self._kept


class Bitmap:
    """One bit for each coordinate, set where it is sent."""

    def encode(self, kept: Kept) -> bytes:
        return pack_bits(kept)

    def length(self, kept: Kept) -> int:
        """The number of bytes that `encode` makes."""
        return (kept.size + 7) // 8

    def read(self, reader: Reader, size: int) -> Kept:
        return reader.bits(size).astype(np.bool_)


class Everything:
    """No bytes: all coordinates are sent."""

    def encode(self, kept: Kept) -> bytes:
        if not kept.all():
            raise ValueError("the vector is not present everywhere")
        return b""

    def read(self, reader: Reader, size: int) -> Kept:  # noqa: ARG002 - there is nothing to read
        return np.ones(size, np.bool_)


class Smallest:
    """A byte that says which coding follows, and the shortest one: 0 `Everything`, 1 `Bitmap`, 2 `Rice` if shorter."""

    def encode(self, kept: Kept) -> bytes:
        scheme = _shortest(kept)
        return bytes([scheme]) + _CODINGS[scheme].encode(kept)

    def read(self, reader: Reader, size: int) -> Kept:
        (scheme,) = reader.unpack("B")
        if scheme >= len(_CODINGS):
            raise ProtocolError(f"positions scheme {scheme} is unknown")
        kept: Kept = _CODINGS[scheme].read(reader, size)
        if scheme != _shortest(kept):
            raise ProtocolError(f"positions are in scheme {scheme}, a writer takes {_shortest(kept)} for these")
        return kept


_BITMAP, _RICE = Bitmap(), Rice()
_CODINGS: tuple[Coding, ...] = (Everything(), _BITMAP, _RICE)


def _shortest(kept: Kept) -> int:
    if kept.all():
        return 0
    return 2 if _RICE.length(kept) < _BITMAP.length(kept) else 1
