"""Integer codes: values as whole multiples of a scale, rounded to the nearest (`int8`)."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.links import Key, Rounding, State, Support, Tensors, Vector
from fedprune.codecs.reader import Reader, pack_bits
from fedprune.errors import ProtocolError

_SCALE = struct.Struct("<f")
_SCALE_BITS = 17
_SMALLEST_SCALE = float(np.finfo(np.float32).smallest_normal)
_LARGEST_SCALE = math.ldexp(66052, 105)  # the largest of 17 bits that times 127 is a float32


@dataclass(frozen=True)
class Codes:
    """For each tensor one float32 scale, then a code of `bits` for each value: value = scale x code, from -L to L.

    L is 2^(bits - 1) - 1. The scale is the largest magnitude / L rounded up to 17 significant bits. Times a code of 7
    bits it is exact in float32's 24: values that are multiples of it are encoded exactly, to the same bytes, and no
    others are read. So the largest magnitude has code L, unless all values are 0 and the scale is +0.

    8 bits are a signed byte. Of fewer, code + L fills bytes from the lowest bit; the last byte is filled with zeros.
    """

    bits: int

    @property
    def largest(self) -> int:
        """L, the largest code."""
        return (1 << (self.bits - 1)) - 1

    def scale(self, vector: Vector) -> np.float32:
        """The scale of a vector."""
        extreme = max(float(vector.max(initial=0.0)), -float(vector.min(initial=0.0)))
        return np.float32(self._scale_up_to(extreme))

    def encode(self, vectors: Sequence[Vector]) -> bytes:
        return b"".join(part for vector in vectors for part in self._encode_one(vector))

    def read(self, reader: Reader, counts: Sequence[int]) -> list[Vector]:
        return [self._read_one(reader, count) for count in counts]

    def _encode_one(self, vector: Vector) -> tuple[bytes, bytes]:
        scale = self.scale(vector)
        codes = nearest_codes(vector, scale).astype(np.int8)
        return scale.astype("<f4").tobytes(), self._pack(codes)

    def _read_one(self, reader: Reader, count: int) -> Vector:
        said = reader.take(_SCALE.size)
        (scale,) = _SCALE.unpack(said)
        if not 0.0 <= scale <= _LARGEST_SCALE:
            raise ProtocolError(f"the scale is {np.float32(scale)}")
        codes = self._unpack(reader, count)
        low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
        if low < -self.largest or high > self.largest:
            raise ProtocolError(f"the code {low if low < -self.largest else high} is not used")
        extreme = max(high, -low)
        wanted = self._scale_up_to(scale * extreme)
        if said != _SCALE.pack(wanted) or (extreme and not scale):
            raise ProtocolError(
                f"the scale is {np.float32(scale)}, a writer takes {np.float32(wanted)} for these values"
            )
        return np.multiply(codes, np.float32(scale), dtype=np.float32)

    def _scale_up_to(self, extreme: float) -> float:
        """The scale for magnitudes up to `extreme`; 0.0 instead of a subnormal one, which some Arm processors lack."""
        mantissa, exponent = math.frexp(extreme / self.largest)
        scale = math.ldexp(math.ceil(math.ldexp(mantissa, _SCALE_BITS)), exponent - _SCALE_BITS)
        return min(scale, _LARGEST_SCALE) if scale >= _SMALLEST_SCALE else 0.0

    def _pack(self, codes: NDArray[np.int8]) -> bytes:
        if self.bits == 8:
            return codes.tobytes()
        shifted = (codes + np.int8(self.largest)).astype(np.uint8)
        bits = np.unpackbits(shifted[:, np.newaxis], axis=1, count=self.bits, bitorder="little")
        return pack_bits(bits.reshape(-1))

    def _unpack(self, reader: Reader, count: int) -> NDArray[np.int8]:
        if self.bits == 8:
            return np.frombuffer(reader.take(count), np.int8)
        bits = reader.bits(count * self.bits).reshape(count, self.bits)
        return np.packbits(bits, axis=1, bitorder="little").reshape(-1).astype(np.int8) - np.int8(self.largest)


def nearest_codes(vector: Vector, scale: np.float32) -> Vector:
    """The nearest multiples of `scale`, ties to even; all 0 if that is 0."""
    codes = vector / scale if scale else np.zeros(vector.size, np.float32)
    return np.rint(codes, out=codes)


@dataclass(frozen=True)
class Int8(Rounding):
    """Rounds values to the nearest of 255 of each tensor, so that none is off by more than half a step.

    Example:
        >>> sent, _, _ = Int8().apply({"bias": np.float32([1, 0.3, 0.001])}, {}, {}, Key(1, 0, "pi-1"))
        >>> sent["bias"].round(4).tolist()
        [1.0, 0.29919999837875366, 0.0]
    """

    _codes = Codes(8)

    def apply(self, tensors: Tensors, support: Support, state: State, key: Key) -> tuple[Tensors, Support, State]:  # noqa: ARG002
        return {name: self._rounded(vector) for name, vector in tensors.items()}, support, state

    def encode(self, vectors: Sequence[Vector]) -> bytes:
        """Values of any kind; those that `apply` made lose nothing."""
        return self._codes.encode(vectors)

    def read(self, reader: Reader, counts: Sequence[int]) -> list[Vector]:
        return self._codes.read(reader, counts)

    def _rounded(self, vector: Vector) -> Vector:
        scale = self._codes.scale(vector)
        rounded = nearest_codes(vector, scale)
        rounded *= scale
        return rounded
