"""Value stages: the last of a codec, they write every value that is left."""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from fedprune.codecs.reader import Reader
from fedprune.codecs.stages import Restore, Stage, Vector
from fedprune.errors import ProtocolError

_NOTHING = np.empty(0, np.float32)
_FLOAT32 = np.finfo(np.float32)
_FLOAT16_MAX = np.float32(np.finfo(np.float16).max)
_INT8_MAX = 127
_LARGEST_SCALE = np.nextafter(np.float32(_FLOAT32.max / _INT8_MAX), np.float32(0.0))


class Values(StrEnum):
    """How values travel; `int8` and `fp16` lose precision."""

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
        return np.clip(vector, -_FLOAT16_MAX, _FLOAT16_MAX).astype("<f2").tobytes(), _NOTHING

    def read(self, reader: Reader, count: int) -> tuple[Restore, int]:
        return _restore_to(reader.array(np.dtype(np.float16), count).astype(np.float32)), 0


class Int8:
    """One float32 scale, then a signed byte for each value: value = scale x code, codes from -127 to 127.

    The scale is the largest magnitude / 127, so no value is off by more than half a scale. Magnitudes so small
    that the scale would be subnormal become 0: some Arm processors have no subnormal numbers.
    """

    def encode(self, vector: Vector) -> tuple[bytes, Vector]:
        scale = min(np.abs(vector).max(initial=np.float32(0.0)) / np.float32(_INT8_MAX), _LARGEST_SCALE)
        if scale < _FLOAT32.smallest_normal:
            scale, codes = np.float32(0.0), np.zeros(vector.size, np.int8)
        else:
            codes = np.clip(np.rint(vector / scale), -_INT8_MAX, _INT8_MAX).astype(np.int8)
        return scale.astype("<f4").tobytes() + codes.tobytes(), _NOTHING

    def read(self, reader: Reader, count: int) -> tuple[Restore, int]:
        (scale,) = reader.array(np.dtype(np.float32), 1)
        if not 0.0 <= scale <= _LARGEST_SCALE:
            raise ProtocolError(f"the int8 scale is {scale}")
        codes = reader.array(np.dtype(np.int8), count)
        return _restore_to(scale * codes.astype(np.float32)), 0


_STAGES: dict[Values, Stage] = {Values.FP32: Fp32(), Values.FP16: Fp16(), Values.INT8: Int8()}


def _restore_to(vector: Vector) -> Restore:
    """Nothing is decoded after the last stage: what it read is the vector."""
    if not np.isfinite(vector).all():
        raise ProtocolError("a value is NaN or infinite")
    return lambda _: vector
