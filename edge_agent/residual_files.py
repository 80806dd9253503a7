"""Both residuals that an update may leave, as bytes on the disk: for cards that wear out.

What is owed if the update is late is what is owed if it is accepted, and what arrived beside that. A quantised update
holds the codes of what arrived, so these are read from it. What is left after quantisation is spread evenly over half a
step, which four bits tell to 7 %. Other values take sixteen: those that gather over rounds are small beside the largest
one, and must not be rounded to nothing.
"""

from __future__ import annotations

import zlib
from math import prod

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Array, Weights
from fedprune.pruning.masks import put_kept, take_kept

MOST_LOST = 0.1
"""Of the norm of a tensor's values, that their codes may lose."""

_EVEN = 0.25
"""Values whose median is at least so much of the largest one are spread evenly."""

_NOTHING_LOST = 1e-3
"""Of the norm: the values are codes themselves."""

_CODE, _EVEN_CODE = 127, 7
"""The largest codes of eight bits and of four."""

_EVEN_BITS = 4
_SMALLEST = float(np.finfo(np.float32).tiny)


class _Values(msgspec.Struct, frozen=True, array_like=True):
    """Some values of a tensor: codes of `bits` times `scale`. Where there are no `codes` they stand in the update from
    `place` on."""

    scale: float
    bits: int
    codes: bytes
    place: int = -1


class _Tensor(msgspec.Struct, frozen=True, array_like=True):
    """A tensor of `shape`: a bit for each of its places that has a value, those that are `owed` there in any case, and
    those that `arrived`."""

    shape: tuple[int, ...]
    places: bytes
    owed: _Values
    arrived: _Values


def pack_residuals(if_accepted: Weights, if_late: Weights, update: bytes) -> bytes:
    """Write both residuals, of the same tensors, that `update` may leave."""
    packed = {name: _pack(if_accepted[name], if_late[name], update) for name in if_accepted}
    return zlib.compress(msgspec.msgpack.encode(packed))


def unpack_residual(blob: bytes, late: bytes | None) -> dict[str, Array]:
    """Read what `pack_residuals` wrote: the residual if `late` is that update, else the one if it was accepted.

    Raises `ValueError` for what is no such file.
    """
    try:
        tensors = msgspec.msgpack.decode(zlib.decompress(blob), type=dict[str, _Tensor])
    except (zlib.error, msgspec.DecodeError) as error:
        raise ValueError(str(error)) from error
    return {name: _unpack(tensor, late) for name, tensor in tensors.items()}


def _pack(accepted: Array, late: Array, update: bytes) -> _Tensor:
    from fedprune.codecs.positions import Smallest  # an agent that waits does without

    places = (accepted != 0.0) | (late != 0.0)
    owed, everything = take_kept(accepted, places), take_kept(late, places)
    arrived = _coded(everything - owed)
    place = update.find(arrived.codes) if arrived.bits == 8 else -1
    if place >= 0:
        arrived = _Values(arrived.scale, arrived.bits, b"", place)
    return _Tensor(accepted.shape, Smallest().encode(places.reshape(-1)), _coded(owed), arrived)


def _unpack(tensor: _Tensor, late: bytes | None) -> Array:
    from fedprune.codecs.positions import Smallest
    from fedprune.codecs.reader import Reader

    size = prod(tensor.shape)
    places = Smallest().read(Reader(tensor.places), size, size)
    count = int(np.count_nonzero(places))
    values = _decoded(tensor.owed, count, b"")
    if late is not None:
        values += _decoded(tensor.arrived, count, late)
    return put_kept(values, places.reshape(tensor.shape))


def _coded(values: Array) -> _Values:
    """Codes of eight bits where nothing is lost, of four where values are spread evenly, else float16 of at most 1."""
    largest = float(np.abs(values).max(initial=0.0))
    if largest < _SMALLEST:
        return _Values(0.0, 8, bytes(len(values)))
    scale = np.float32(largest / _CODE)
    codes = np.rint(values / scale).astype(np.int8)
    lost = values - codes * scale
    if np.dot(lost, lost) <= _NOTHING_LOST**2 * np.dot(values, values):
        return _Values(float(scale), 8, codes.tobytes())
    if float(np.median(np.abs(values))) >= _EVEN * largest:
        few = np.rint(values * np.float32(_EVEN_CODE / largest)).astype(np.int8) + np.int8(_EVEN_CODE)
        bits = np.unpackbits(few.view(np.uint8)[:, None], axis=1)[:, -_EVEN_BITS:]
        return _Values(largest / _EVEN_CODE, _EVEN_BITS, np.packbits(bits).tobytes())
    return _Values(largest, 16, (values / np.float32(largest)).astype("<f2").tobytes())


def _decoded(values: _Values, count: int, update: bytes) -> Array:
    """Raises `ValueError` where there are not so many codes."""
    length = -(-count * values.bits // 8)
    blob = values.codes if values.place < 0 else update[values.place : values.place + length]
    if len(blob) != length:
        raise ValueError(f"{len(blob)} bytes of codes for {count} values")
    codes: NDArray[np.generic]
    match values.bits:
        case 8:
            codes = np.frombuffer(blob, np.int8)
        case 16:
            codes = np.frombuffer(blob, "<f2")
        case bits if bits == _EVEN_BITS:
            each = np.unpackbits(np.frombuffer(blob, np.uint8), count=count * bits).reshape(count, bits)
            codes = np.packbits(each, axis=1)[:, 0].astype(np.int16) // 2 ** (8 - bits) - _EVEN_CODE
        case _:
            raise ValueError(f"codes of {values.bits} bits")
    return codes.astype(np.float32) * np.float32(values.scale)
