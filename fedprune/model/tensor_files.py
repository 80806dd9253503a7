"""Named arrays as the bytes of a safetensors file, which other tools can read.

They are written here, and what was written here is read without a copy, since the library holds everything twice. The
library reads files of others. It is imported where it is used: an agent that only waits has nothing to read.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import BinaryIO, NamedTuple

import msgspec
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

_NUMPY = {theirs: ours for ours, theirs in _DTYPES.items()}

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


def view_tensors(blob: bytes) -> dict[str, NDArray[np.generic]]:
    """The arrays of a file that `write_tensors` wrote, by name, as they lie in `blob`, which none may be written to.

    Raises `ValueError` for a damaged file.
    """
    begin = 8 + int.from_bytes(blob[:8], "little")
    if begin > len(blob):
        raise ValueError("it is truncated")
    try:
        header = msgspec.json.decode(blob[8:begin], type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        rows = [(name, msgspec.json.decode(row, type=_Row)) for name, row in header.items()]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"its header: {error}") from error
    views, end = dict[str, NDArray[np.generic]](), 0
    for name, row in sorted(rows, key=lambda named: named[1].data_offsets):
        first, last = row.data_offsets
        if row.dtype not in _NUMPY or min(row.shape, default=0) < 0 or first != end or begin + last > len(blob):
            raise ValueError(f"tensor {name}: no such array")
        dtype, size = np.dtype(_NUMPY[row.dtype]), math.prod(row.shape)
        if last - first != size * dtype.itemsize:
            raise ValueError(f"tensor {name}: {last - first} bytes are not of shape {list(row.shape)}")
        view = np.frombuffer(blob, dtype.newbyteorder("<"), size, begin + first).reshape(row.shape)
        if row.dtype == "BOOL" and view.view(np.uint8).max(initial=0) > 1:
            raise ValueError(f"tensor {name}: a truth value is neither 0 nor 1")
        views[name], end = view, last
    if begin + end != len(blob):
        raise ValueError(f"{len(blob) - begin - end} bytes too many")
    return views


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


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
