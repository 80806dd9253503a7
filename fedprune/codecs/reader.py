"""A cursor over foreign bytes: whatever it gives out was really there."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedprune.errors import ProtocolError

_Scalar = TypeVar("_Scalar", bound=np.generic)


class Reader:
    """Reads little-endian fields from `blob` one after another.

    All methods raise `ProtocolError` where the bytes do not hold what was asked for; none allocates more than a
    small multiple of the bytes that it found.
    """

    def __init__(self, blob: bytes) -> None:
        self._rest = memoryview(blob)

    def take(self, length: int) -> memoryview:
        """The next `length` bytes."""
        if length > len(self._rest):
            raise ProtocolError(f"truncated: {length} bytes expected, {len(self._rest)} left")
        taken, self._rest = self._rest[:length], self._rest[length:]
        return taken

    def expect(self, magic: bytes) -> None:
        """Take `magic`, or raise `ProtocolError` if something else is there."""
        found = bytes(self.take(len(magic)))
        if found != magic:
            raise ProtocolError(f"the blob starts with {found!r}, not {magic!r}")

    def peek(self, length: int) -> memoryview:
        """The next bytes without taking them: `length`, or all that are left."""
        return self._rest[:length]

    def unpack(self, fields: str) -> tuple[Any, ...]:
        """The next fields in the notation of `struct`, little-endian and unpadded."""
        layout = struct.Struct("<" + fields)
        return layout.unpack(self.take(layout.size))

    def array(self, dtype: np.dtype[_Scalar], count: int) -> NDArray[_Scalar]:
        """The next `count` scalars as a new array of native byte order."""
        wire = dtype.newbyteorder("<")
        return np.frombuffer(self.take(count * wire.itemsize), wire).astype(dtype)

    def bits(self, count: int) -> NDArray[np.uint8]:
        """The next `count` bits, as written by `pack_bits`. Bits that only fill the last byte must be 0."""
        bits = np.unpackbits(np.frombuffer(self.take((count + 7) // 8), np.uint8), bitorder="little")
        if bits[count:].any():
            raise ProtocolError("padding bits are set")
        return bits[:count]

    def finish(self) -> None:
        """Raise `ProtocolError` unless everything was read."""
        if self._rest:
            raise ProtocolError(f"{len(self._rest)} bytes too many")


def pack_bits(bits: NDArray[np.bool_] | NDArray[np.uint8]) -> bytes:
    """`bits` (zeros and ones) eight to a byte, the first in the lowest bit; the last byte is filled with zeros."""
    return np.packbits(bits, bitorder="little").tobytes()


@contextmanager
def naming(part: str) -> Iterator[None]:
    """Say in which part the bytes went wrong."""
    try:
        yield
    except ProtocolError as error:
        raise ProtocolError(f"{part}: {error}") from None
