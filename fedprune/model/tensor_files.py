"""Named arrays as the bytes of a safetensors file, which other tools can read.

They are written here, since the library wants all of them in memory, twice. It is imported where it is used: an agent
that only waits has nothing to read.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

_DTYPES = {
    "bool": "BOOL",
    "int8": "I8",
    "uint8": "U8",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "int64": "I64",
    "uint64": "U64",
    "float64": "F64",
}
"""Names of numpy's dtypes in a safetensors header."""

_ALIGNMENT = 8
"""The header is filled up with spaces to a multiple of it, so that arrays can be read where they lie."""

Makes = Callable[[], NDArray[np.generic]]
"""Makes an array when it is asked to."""


def pack_tensors(tensors: Mapping[str, NDArray[np.generic]]) -> bytes:
    """The file's bytes."""
    file = io.BytesIO()
    write_tensors(file, {name: partial(tensors.__getitem__, name) for name in tensors}, {})
    return file.getvalue()


def write_tensors(file: BinaryIO, tensors: Mapping[str, Makes], metadata: Mapping[str, str]) -> None:
    """Write the file with no more than one array in memory; each is asked for twice, for its shape and its values.

    Args:
        file: takes the bytes.
        tensors: by name. Those of the largest numbers come first, so that each lies at a multiple of its numbers' size.
        metadata: goes into the header.
    """
    rows, end = dict[str, object](), 0
    layouts = {name: _layout(make()) for name, make in tensors.items()}
    order = sorted(layouts, key=lambda name: (-layouts[name].dtype.itemsize, name))
    for name in order:
        begin, end = end, end + layouts[name].bytes
        rows[name] = {
            "dtype": _DTYPES[layouts[name].dtype.name],
            "shape": layouts[name].shape,
            "data_offsets": (begin, end),
        }
    described = {"__metadata__": metadata, **rows} if metadata else rows
    header = json.dumps(described, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    file.write(len(header).to_bytes(8, "little") + header)
    for name in order:
        array = np.ascontiguousarray(tensors[name](), layouts[name].dtype.newbyteorder("<"))
        file.write(array.reshape(-1).view(np.uint8).data)


class _Layout(NamedTuple):
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    bytes: int


def _layout(array: NDArray[np.generic]) -> _Layout:
    """Sums of arrays without axes are scalars, and have the same attributes."""
    return _Layout(array.dtype, array.shape, array.nbytes)


def unpack_tensors(blob: bytes) -> dict[str, NDArray[np.float32]]:
    """The arrays by name. Raises `ValueError` for what is no safetensors file, or a damaged one."""
    import safetensors.numpy

    try:
        return safetensors.numpy.load(blob)
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(str(error)) from error
