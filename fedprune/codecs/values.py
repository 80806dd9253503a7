"""Value stages: the last of a coder, they write every value that is left."""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.reader import Reader
from fedprune.codecs.stages import Restore, Stage, Vector
from fedprune.errors import ProtocolError

_NOTHING = np.empty(0, np.float32)
_FLOAT16_MAX = np.float32(np.finfo(np.float16).max)
_SMALLEST_NORMAL, _SUBNORMAL_STEP = np.float32(2.0**-14), np.float32(2.0**-24)
"""Of IEEE halves."""
_PIECE = 2**16
"""Values that are rounded at once."""
_INT8_MAX = 127
_SCALE_BITS = 17
_SMALLEST_SCALE = float(np.finfo(np.float32).smallest_normal)
_LARGEST_SCALE = math.ldexp(66052, 105)  # the largest of 17 bits that times 127 is a float32


class Values(StrEnum):
    """The value schemes; `int8` and `fp16` lose precision.

    Example:
        >>> from fedprune.codecs.stages import decode, encode
        >>> vector = np.array([1.0, 0.3, 0.001], np.float32)
        >>> decode(Values.INT8.stage, Reader(encode(Values.INT8.stage, vector)), 3).round(4).tolist()
        [1.0, 0.29919999837875366, 0.0]
    """

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"

    @property
    def stage(self) -> Stage:
        return _STAGES[self]


class Fp32:
    """Values as they are, 4 bytes each."""

    def encode(self, vector: Vector) -> tuple[bytes, Vector]:
        return vector.astype("<f4").tobytes(), _NOTHING

    def read(self, reader: Reader, count: int) -> tuple[Restore, int]:
        return _restore_to(reader.array(np.dtype(np.float32), count)), 0


class Fp16:
    """Values rounded to the nearest IEEE half, ties to even, 2 bytes each; those beyond +-65504 become +-65504."""

    def encode(self, vector: Vector) -> tuple[bytes, Vector]:
        pieces = (vector[start : start + _PIECE] for start in range(0, vector.size, _PIECE))
        return b"".join(_halves(piece).astype("<f2").tobytes() for piece in pieces), _NOTHING

    def read(self, reader: Reader, count: int) -> tuple[Restore, int]:
        return _restore_to(reader.array(np.dtype(np.float16), count).astype(np.float32)), 0


class Int8:
    """One float32 scale, then a signed byte for each value: value = scale x code, codes from -127 to 127.

    The scale is the largest magnitude / 127 rounded up to 17 significant bits, so no value is off by more than
    half a scale. Times a code of 7 bits it is exact in float32's 24: what was decoded is encoded to the same bytes,
    and no others are read. So the largest magnitude has code 127, unless all values are 0 and the scale is +0.
    """

    def encode(self, vector: Vector) -> tuple[bytes, Vector]:
        largest = max(float(vector.max(initial=0.0)), -float(vector.min(initial=0.0)))
        scale = np.float32(_int8_scale(largest))
        codes = vector / scale if scale else np.zeros(vector.size)
        return scale.astype("<f4").tobytes() + np.rint(codes, out=codes).astype(np.int8).tobytes(), _NOTHING

    def read(self, reader: Reader, count: int) -> tuple[Restore, int]:
        (scale,) = reader.array(np.dtype(np.float32), 1)
        if not 0.0 <= scale <= _LARGEST_SCALE:
            raise ProtocolError(f"the int8 scale is {scale}")
        codes = reader.array(np.dtype(np.int8), count)
        if codes.min(initial=0) < -_INT8_MAX:
            raise ProtocolError("the int8 code -128 is not used")
        largest = max(int(codes.max(initial=0)), -int(codes.min(initial=0)))
        wanted = np.float32(_int8_scale(float(scale) * largest))
        if scale.tobytes() != wanted.tobytes() or (largest and not scale):
            raise ProtocolError(f"the int8 scale is {scale}, a writer takes {wanted} for these values")
        return _restore_to(scale * codes.astype(np.float32)), 0


def _halves(vector: Vector) -> NDArray[np.float16]:
    """The nearest halves. Below the normal ones numpy's own cast is 25 times slower, and there lie small updates."""
    small = np.abs(vector) < _SMALLEST_NORMAL
    halves = np.clip(np.where(small, np.float32(0.0), vector), -_FLOAT16_MAX, _FLOAT16_MAX).astype(np.float16)
    steps = np.rint(np.abs(vector[small]) / _SUBNORMAL_STEP).astype(np.uint16)  # these are the half's own bits
    halves.view(np.uint16)[small] = steps | np.signbit(vector[small]) * np.uint16(0x8000)
    return halves


def _int8_scale(largest: float) -> float:
    """The scale for magnitudes up to `largest`; 0.0 instead of a subnormal one, which some Arm processors lack."""
    mantissa, exponent = math.frexp(largest / _INT8_MAX)
    scale = math.ldexp(math.ceil(math.ldexp(mantissa, _SCALE_BITS)), exponent - _SCALE_BITS)
    return min(scale, _LARGEST_SCALE) if scale >= _SMALLEST_SCALE else 0.0


_STAGES: dict[Values, Stage] = {Values.FP32: Fp32(), Values.FP16: Fp16(), Values.INT8: Int8()}


def _restore_to(vector: Vector) -> Restore:
    """Nothing is decoded after the last stage: what it read is the vector."""
    if not np.isfinite(vector).all():
        raise ProtocolError("a value is NaN or infinite")
    return lambda _: vector
