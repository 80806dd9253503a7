"""IDX, the file format of MNIST and its relatives."""

from __future__ import annotations

import math
import struct

import numpy as np
from numpy.typing import NDArray

from fedprune.errors import DataError

_UNSIGNED_BYTES = 0x08


def parse_idx(blob: bytes, dimensions: int) -> NDArray[np.uint8]:
    """The array of unsigned bytes in an (uncompressed) IDX file, which must have this number of dimensions.

    The file is two zero bytes, the type (0x08), the number of dimensions, each dimension as a big-endian uint32, and
    then exactly the data, row by row (Y. LeCun, "The MNIST database", section "The IDX file format").
    Raises `DataError` for anything else.
    """
    magic = bytes([0, 0, _UNSIGNED_BYTES, dimensions])
    if blob[:4] != magic:
        raise DataError(
            f"not an IDX file of bytes in {dimensions} dimensions: it starts {blob[:4].hex()}, not {magic.hex()}"
        )
    header = struct.Struct(f">4x{dimensions}I")
    if len(blob) < header.size:
        raise DataError(f"an IDX file cut off in its header, after {len(blob)} bytes")
    shape = header.unpack_from(blob)
    if len(blob) != header.size + math.prod(shape):
        raise DataError(
            f"an IDX file of {len(blob)} bytes, its header {list(shape)} says {header.size + math.prod(shape)}"
        )
    return np.frombuffer(blob, np.uint8, offset=header.size).reshape(shape)
