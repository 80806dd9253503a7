"""Residuals as bytes on the disk: at 80 % sparsity a quarter of what whole tensors are, for cards that wear out."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensor_files import pack_tensors, unpack_tensors
from fedprune.model.tensors import Array, Weights
from fedprune.pruning.masks import put_kept, take_kept

_SHAPE, _PLACES, _VALUES = "shape/", "places/", "values/"


def pack_residual(residual: Weights) -> bytes:
    """Write each tensor's shape, a bit for each place that is not zero, and the values there."""
    packed: dict[str, NDArray[np.generic]] = {}
    for name, array in residual.items():
        places = array != 0.0
        packed[_SHAPE + name] = np.array(array.shape, np.int64)
        packed[_PLACES + name] = np.packbits(places.reshape(-1))
        packed[_VALUES + name] = take_kept(array, places)
    return pack_tensors(packed)


def unpack_residual(blob: bytes) -> dict[str, Array]:
    """Read what `pack_residual` wrote. Raises `ValueError` for what is no safetensors file."""
    packed = unpack_tensors(blob)
    names = [key.removeprefix(_SHAPE) for key in packed if key.startswith(_SHAPE)]
    residual = {}
    for name in names:
        shape = tuple(packed[_SHAPE + name].tolist())
        bits = np.unpackbits(packed[_PLACES + name].view(np.uint8), count=math.prod(shape))
        residual[name] = put_kept(packed[_VALUES + name], bits.view(np.bool_).reshape(shape))
    return residual
