"""Both residuals that an update may leave, as bytes on the disk: for cards that wear out.

What is owed if the update is late is what is owed if it is accepted, and what arrived beside that. A quantised update
holds the codes of what arrived, so these are read from it. What is left after quantisation is spread evenly over half a
step, which four bits tell to 7 %; where it is not, eight do, which is fine beside what arrives. Other values take
sixteen: those that gather over rounds are small beside the largest one, and must not be rounded to nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from math import prod
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.local_round import PreparedUpdate
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Array
from fedprune.pruning.masks import put_kept, take_kept
from fedprune.task.checks import MAX_PARAMETERS

MOST_LOST = 0.1
"""Of the norm of a tensor's values, that their codes may lose."""

_EVEN = 0.25
"""Values whose median is at least so much of the largest one are spread evenly."""

_REMAINDER = 0.01
"""Owed values that are at most so much of the largest one that arrived are what its rounding left. Eight bits tell them
to 1/25,000 of that."""

_NOTHING_LOST = 1e-3
"""Of the norm: the values are codes themselves."""

_QUICK = 1
"""zlib's level: masks and zeros become small, codes do not at any."""

_LARGEST_CODES = {4: 7, 8: 127}
"""By the number of bits."""

_PIECE = 2**16
"""Values that are worked on at a time: even."""

_MOST_TENSORS = 2**16
"""Of a residual."""

_MOST_AXES = 32
"""Of a tensor, as numpy has them in all its versions."""

_MOST_BYTES = 8 * MAX_PARAMETERS
"""Of what is unpacked: a value takes less than five, with all that is said of its place, and names take the rest."""

_SMALLEST, _LARGEST_SCALE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


class _Values(msgspec.Struct, frozen=True, array_like=True):
    """Some values of a tensor: codes of `bits` times `scale`. Where there are no `codes` they stand in the update from
    `place` on."""

    scale: float
    bits: int
    codes: bytes
    place: int = -1

    @property
    def largest(self) -> float:
        return self.scale * _LARGEST_CODES.get(self.bits, 1)


class _Tensor(msgspec.Struct, frozen=True, array_like=True):
    """A tensor of `shape`: a bit for each of its places that has a value, those that are `owed` there in any case, and
    those that `arrived`."""

    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0)], ...], msgspec.Meta(max_length=_MOST_AXES)]
    places: bytes
    owed: _Values
    arrived: _Values


_Tensors = Annotated[dict[str, _Tensor], msgspec.Meta(max_length=_MOST_TENSORS)]


def pack_residuals(prepared: PreparedUpdate) -> bytes:
    """Write both residuals that an update may leave."""
    owed, late = prepared.residual_if_accepted, prepared.residual_if_late
    packed = {name: _pack(owed[name], late[name], prepared.mask.get(name), prepared.blob) for name in owed}
    return zlib.compress(msgspec.msgpack.encode(packed), _QUICK)


def unpack_residual(blob: bytes, late: bytes | None) -> dict[str, Array]:
    """Read what `pack_residuals` wrote: the residual if `late` is that update, else the one if it was accepted.

    Raises `ValueError` for what is no such file, is larger than any task's model, or is not finite.
    """
    try:
        unpacker = zlib.decompressobj()
        packed = unpacker.decompress(blob, _MOST_BYTES)
        if not unpacker.eof or unpacker.unused_data:
            raise ValueError("the file is truncated, or something follows it")
        tensors = msgspec.msgpack.decode(packed, type=_Tensors)
        if (count := sum(prod(tensor.shape) for tensor in tensors.values())) > MAX_PARAMETERS:
            raise ValueError(f"{count} values, a task's model has at most {MAX_PARAMETERS}")
        return {name: _unpack(tensor, late) for name, tensor in tensors.items()}
    except (zlib.error, msgspec.DecodeError, ProtocolError) as error:
        raise ValueError(str(error)) from error


def _pack(accepted: Array, late: Array, kept: NDArray[np.bool_] | None, update: bytes) -> _Tensor:
    """The places are those that are `kept`, all for None, if the update holds their codes; else those with a value."""
    from fedprune.codecs.positions import Smallest  # an agent that waits does without

    places = np.ones(accepted.shape, np.bool_) if kept is None else kept
    arrived = _held_by(update, take_kept(late, places) - take_kept(accepted, places))
    if arrived is None:
        places = (accepted != 0.0) | (late != 0.0)
        arrived = _coded(take_kept(late, places) - take_kept(accepted, places))
    owed = _coded(take_kept(accepted, places), arrived.largest)
    return _Tensor(accepted.shape, Smallest().encode(places.reshape(-1)), owed, arrived)


def _unpack(tensor: _Tensor, late: bytes | None) -> Array:
    from fedprune.codecs.positions import Smallest
    from fedprune.codecs.reader import Reader

    size = prod(tensor.shape)
    reader = Reader(tensor.places)
    places = Smallest().read(reader, size, size)
    reader.finish()
    count = int(np.count_nonzero(places))
    with np.errstate(over="ignore", invalid="ignore"):
        values = _decoded(tensor.owed, count, b"")
        if late is not None:
            values += _decoded(tensor.arrived, count, late)
    if not np.isfinite(values).all():
        raise ValueError("a value is NaN or infinite")
    return put_kept(values, places.reshape(tensor.shape))


def _held_by(update: bytes, values: Array) -> _Values | None:
    """The codes of eight bits that `update` holds of these values; None if it holds none that lose nothing."""
    codes = _quantised(values, 8)
    place = update.find(codes.codes) if codes.lost <= _NOTHING_LOST else -1
    return _Values(codes.scale, 8, b"", place) if place >= 0 else None


def _coded(values: Array, most_arrived: float = 0.0) -> _Values:
    """The fewest bits that lose little enough of values that may be rounded so, and nothing of others: four of evenly
    spread ones, eight of a remainder beside `most_arrived`. Sixteen are float16 of at most 1."""
    largest = _largest(values)
    may_lose = {4: _are_even(values, largest), 8: largest <= _REMAINDER * most_arrived}
    for bits, may in may_lose.items():
        codes = _quantised(values, bits)
        if codes.lost <= (MOST_LOST if may else _NOTHING_LOST):
            return _Values(codes.scale, bits, codes.codes)
    shares = ((part / np.float32(largest)).astype("<f2").tobytes() for part in _in_pieces(values))
    return _Values(largest, 16, b"".join(shares))


class _Quantised(NamedTuple):
    """Codes times `scale`, and the share of the values' norm that they lose."""

    scale: float
    codes: bytes
    lost: float


def _quantised(values: Array, bits: int) -> _Quantised:
    """The nearest codes of four or eight bits."""
    largest = _largest(values)
    if largest < _SMALLEST:
        return _Quantised(0.0, bytes(_length(len(values), bits)), 0.0)
    scale = np.float32(largest / _LARGEST_CODES[bits])
    pieces, lost, norm = [], 0.0, 0.0
    for part in _in_pieces(values):
        steps = part / scale
        rounded = np.rint(steps)
        norm += float(np.dot(steps, steps))
        steps -= rounded
        lost += float(np.dot(steps, steps))
        codes = rounded.astype(np.int8)
        pieces.append(codes.tobytes() if bits == 8 else _packed(codes.view(np.uint8) & 0xF))
    return _Quantised(float(scale), b"".join(pieces), (lost / norm) ** 0.5)


def _are_even(values: Array, largest: float) -> bool:
    """Half of the values, zeros aside, are not small beside the largest one."""
    count = sum(int(np.count_nonzero(np.abs(part) >= _EVEN * largest)) for part in _in_pieces(values))
    return 2 * count >= int(np.count_nonzero(values))


def _largest(values: Array) -> float:
    return max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))


def _length(count: int, bits: int) -> int:
    """The bytes of so many codes."""
    return -(-count * bits // 8)


def _in_pieces(values: Array) -> Iterator[Array]:
    """Parts of a vector: a device has no room for copies of all of it."""
    for start in range(0, len(values), _PIECE):
        yield values[start : start + _PIECE]


def _packed(halves: NDArray[np.uint8]) -> bytes:
    """Two numbers below 16 to a byte, the first in the lower bits."""
    padded = np.zeros(len(halves) + len(halves) % 2, np.uint8)
    padded[: len(halves)] = halves
    return (padded[::2] | padded[1::2] << 4).astype(np.uint8).tobytes()


def _decoded(values: _Values, count: int, update: bytes) -> Array:
    """Raises `ValueError` where there are not so many codes, or they are of no such bits or scale."""
    if values.bits not in (*_LARGEST_CODES, 16) or not 0.0 <= values.scale <= _LARGEST_SCALE:
        raise ValueError(f"codes of {values.bits} bits times {values.scale}")
    length = _length(count, values.bits)
    blob = values.codes if values.place < 0 else update[values.place : values.place + length]
    if len(blob) != length:
        raise ValueError(f"{len(blob)} bytes of codes for {count} values")
    codes: NDArray[np.generic]
    match values.bits:
        case 4:
            pairs = np.frombuffer(blob, np.uint8)
            halves = np.stack([pairs & 0xF, pairs >> 4], axis=1).reshape(-1)[:count].astype(np.int8)
            codes = halves - 16 * (halves > _LARGEST_CODES[4]).astype(np.int8)
        case 8:
            codes = np.frombuffer(blob, np.int8)
        case _:
            codes = np.frombuffer(blob, "<f2")
    return codes.astype(np.float32) * np.float32(values.scale)
