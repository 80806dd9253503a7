"""Both residuals that an update may leave, as bytes on the disk: for cards that wear out.

What is owed if the update is late is what is owed if it is accepted, and what arrived beside that. A quantised update
holds the codes of what arrived, so these are read from it. What is left after quantisation is spread evenly over half a
step, which four bits tell to 7 %. Other values take sixteen: those that gather over rounds are small beside the largest
one, and must not be rounded to nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
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

_QUICK = 1
"""zlib's level: masks and zeros become small, codes do not at any."""

_CODE, _EVEN_CODE = 127, 7
"""The largest codes of eight bits and of four."""

_PIECE = 2**16
"""Values that are worked on at a time: even."""

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
    return zlib.compress(msgspec.msgpack.encode(packed), _QUICK)


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
    """Codes of eight bits where nothing is lost, of four where values are spread evenly and these lose little enough,
    else float16 of at most 1."""
    largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
    if largest < _SMALLEST:
        return _Values(0.0, 8, bytes(len(values)))
    scale = np.float32(largest / _CODE)
    codes, lost, norm, even = np.empty(len(values), np.int8), 0.0, 0.0, 0
    for start, part in _in_pieces(values):
        coded = np.rint(part / scale)
        codes[start : start + len(part)] = coded
        off = part - coded * scale
        lost, norm = lost + float(np.dot(off, off)), norm + float(np.dot(part, part))
        even += int(np.count_nonzero(np.abs(part) >= _EVEN * largest))
    if lost <= _NOTHING_LOST**2 * norm:
        return _Values(float(scale), 8, codes.tobytes())
    del codes
    if 2 * even >= len(values):
        step = np.float32(largest / _EVEN_CODE)
        halves, lost = [], 0.0
        for _, part in _in_pieces(values):
            coded = np.rint(part / step)
            off = part - coded * step
            lost += float(np.dot(off, off))
            halves.append(_packed(coded.astype(np.int8).view(np.uint8) & 0xF))
        if lost <= MOST_LOST**2 * norm:
            return _Values(float(step), 4, b"".join(halves))
    shares = ((part / np.float32(largest)).astype("<f2").tobytes() for _, part in _in_pieces(values))
    return _Values(largest, 16, b"".join(shares))


def _in_pieces(values: Array) -> Iterator[tuple[int, Array]]:
    """Parts of a vector with where they begin: a device has no room for copies of all of it."""
    for start in range(0, len(values), _PIECE):
        yield start, values[start : start + _PIECE]


def _packed(halves: NDArray[np.uint8]) -> bytes:
    """Two numbers below 16 to a byte, the first in the lower bits."""
    padded = np.zeros(len(halves) + len(halves) % 2, np.uint8)
    padded[: len(halves)] = halves
    return (padded[::2] | padded[1::2] << 4).astype(np.uint8).tobytes()


def _decoded(values: _Values, count: int, update: bytes) -> Array:
    """Raises `ValueError` where there are not so many codes."""
    length = -(-count * values.bits // 8)
    blob = values.codes if values.place < 0 else update[values.place : values.place + length]
    if len(blob) != length:
        raise ValueError(f"{len(blob)} bytes of codes for {count} values")
    codes: NDArray[np.generic]
    match values.bits:
        case 4:
            pairs = np.frombuffer(blob, np.uint8)
            halves = np.stack([pairs & 0xF, pairs >> 4], axis=1).reshape(-1)[:count].astype(np.int8)
            codes = halves - 16 * (halves > _EVEN_CODE).astype(np.int8)
        case 8:
            codes = np.frombuffer(blob, np.int8)
        case 16:
            codes = np.frombuffer(blob, "<f2")
        case _:
            raise ValueError(f"codes of {values.bits} bits")
    return codes.astype(np.float32) * np.float32(values.scale)
