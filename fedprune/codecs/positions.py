"""Positions as bytes: which of a vector's places are sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from fedprune.codecs.links import Places
from fedprune.codecs.reader import Reader, pack_bits
from fedprune.codecs.rice import Rice
from fedprune.errors import ProtocolError


class Coding(Protocol):
    """Positions as bytes. Equal positions are equal bytes: `read` refuses what `encode` would not have written."""

    def encode(self, kept: Places) -> bytes:
        """Write the places that are True."""

    def read(self, reader: Reader, size: int, most: int) -> Places:
        """Read at most `most` of `size` places. Raises `ProtocolError` for bytes that `encode` could not have left."""


CodingOf = Callable[[Sequence[Places], Sequence[Places]], Coding]
"""Makes the coding of an update's positions: those of the alive values of all tensors, one tensor after another.

It is given the masks of these tensors and what has moved of them, in their shapes, since all sides know these."""


class Bitmap:
    """One bit for each place, set where it is sent.

    Example:
        >>> Bitmap().encode(np.array([True, False, True]))
        b'\\x05'
    """

    def encode(self, kept: Places) -> bytes:
        return pack_bits(kept)

    def length(self, kept: Places) -> int:
        """The number of bytes that `encode` makes."""
        return (kept.size + 7) // 8

    def read(self, reader: Reader, size: int, most: int) -> Places:
        kept = reader.bits(size).astype(np.bool_)
        count = int(np.count_nonzero(kept))
        if count > most:
            raise ProtocolError(f"{count} positions are sent, at most {most} may be")
        return kept


class Everything:
    """No bytes: all places are sent."""

    def encode(self, kept: Places) -> bytes:
        if not kept.all():
            raise ValueError("the vector is not present everywhere")
        return b""

    def read(self, reader: Reader, size: int, most: int) -> Places:  # noqa: ARG002 - there is nothing to read
        return np.ones(size, np.bool_)


class Smallest:
    """A byte that says which coding follows, and the shortest one: 0 `Everything`, 1 `Bitmap`, 2 `Rice` if shorter.

    Masks travel so: anything from all to few of their places is kept.
    """

    def encode(self, kept: Places) -> bytes:
        scheme = _shortest(kept)
        return bytes([scheme]) + _CODINGS[scheme].encode(kept)

    def read(self, reader: Reader, size: int, most: int) -> Places:
        (scheme,) = reader.unpack("B")
        if scheme not in _CODINGS:
            raise ProtocolError(f"positions scheme {scheme} is unknown")
        kept = _CODINGS[scheme].read(reader, size, most)
        count = int(np.count_nonzero(kept))
        if count > most:
            raise ProtocolError(f"{count} positions are sent, at most {most} may be")
        if scheme != _shortest(kept):
            raise ProtocolError(f"positions are in scheme {scheme}, a writer takes {_shortest(kept)} for these")
        return kept


_EVERYTHING, _BITMAP, _RICE = 0, 1, 2
_CODINGS: dict[int, Coding] = {_EVERYTHING: Everything(), _BITMAP: Bitmap(), _RICE: Rice()}
"""The codings of masks by the number that stands in the bytes."""


def _shortest(kept: Places) -> int:
    if kept.all():
        return _EVERYTHING
    return _RICE if Rice().length(kept) < Bitmap().length(kept) else _BITMAP
