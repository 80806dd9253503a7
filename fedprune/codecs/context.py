"""Context coding of positions: gaps by an adaptive range coder, which learns how dense and how clustered they are.

Each tensor's positions are gone through row by row, or column by column where that sets long and short gaps apart. A
gap is divided by the power of two at or below the tensor's places per position: the quotient is written in unary, by
counters that depend on the quotient before, then the upper bit of the remainder by a counter, its other bits as they
are. For independent positions that is the entropy but for some bytes of learning; where positions lie together it is
less.

There is a step in Python for each position that is sent and none for others: positions in contexts of their own, which
wants a step for each place, would take minutes for large models on a small device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.links import Places
from fedprune.codecs.range_coder import Chance, RangeDecoder, RangeEncoder
from fedprune.codecs.reader import Reader
from fedprune.errors import ProtocolError

_QUOTIENTS, _STEPS = 3, 4
"""Quotients, and places in unary numbers, that are told apart; those beyond count as the last."""

_MOST_LENGTH_BYTES = 5


class ContextCoder:
    """Positions of the alive values of tensors whose masks both sides know.

    The number of bytes (7 bits in each, lowest first, with the top bit where another follows), then those of the range
    coder: for each tensor the number of positions, 1 for column by column or 0, and the gaps.

    Example:
        >>> kept = np.zeros(10_000, np.bool_)
        >>> kept[::100] = True
        >>> coder = ContextCoder([np.ones((100, 100), np.bool_)])
        >>> len(coder.encode(kept)) < 40
        True
    """

    def __init__(self, masks: Sequence[Places]) -> None:
        self._masks = masks

    def encode(self, kept: Places) -> bytes:
        encoder, contexts = RangeEncoder(), _Contexts()
        start = 0
        for mask in self._masks:
            size = int(np.count_nonzero(mask))
            _write_tensor(encoder, contexts, np.flatnonzero(kept[start : start + size]), mask, size)
            start += size
        body = encoder.finish()
        return _length_bytes(len(body)) + body

    def read(self, reader: Reader, size: int, most: int) -> Places:
        body = bytes(reader.take(_read_length(reader)))
        decoder, contexts = RangeDecoder(body), _Contexts()
        kept = np.zeros(size, np.bool_)
        start = 0
        for mask in self._masks:
            alive = int(np.count_nonzero(mask))
            found = _read_tensor(decoder, contexts, mask, alive, most)
            most -= found.size
            kept[start + found] = True
            start += alive
        if self.encode(kept) != _length_bytes(len(body)) + body:
            raise ProtocolError("the positions are not coded as a writer codes them")
        return kept


def _chances() -> list[Chance]:
    return [Chance() for _ in range(_STEPS)]


@dataclass
class _Contexts:
    """The counters of one message."""

    lengths: list[Chance] = field(default_factory=lambda: [Chance() for _ in range(64)])
    by_column: Chance = field(default_factory=Chance)
    quotients: list[list[Chance]] = field(default_factory=lambda: [_chances() for _ in range(_QUOTIENTS)])
    halves: list[Chance] = field(default_factory=lambda: [Chance() for _ in range(_QUOTIENTS)])


def _write_tensor(
    encoder: RangeEncoder, contexts: _Contexts, positions: NDArray[np.intp], mask: Places, size: int
) -> None:
    _write_count(encoder, contexts, positions.size)
    if not positions.size:
        return
    gaps = _gaps(positions)
    if mask.ndim > 1:
        transposed = _gaps(np.sort(_ranks_by_column(mask)[positions]))
        by_column = _roughness(transposed) < _roughness(gaps)
        encoder.bit(contexts.by_column, by_column)
        gaps = transposed if by_column else gaps
    shift, before = _shift(size, positions.size), 0
    for gap in gaps.tolist():
        quotient = gap >> shift
        row = contexts.quotients[before]
        for step in range(quotient):
            encoder.bit(row[step if step < _STEPS else -1], 1)
        encoder.bit(row[quotient if quotient < _STEPS else -1], 0)
        before = quotient if quotient < _QUOTIENTS else _QUOTIENTS - 1
        if shift:
            encoder.bit(contexts.halves[before], gap >> (shift - 1) & 1)
            encoder.plain(gap & (1 << (shift - 1)) - 1, shift - 1)


def _read_tensor(decoder: RangeDecoder, contexts: _Contexts, mask: Places, size: int, most: int) -> NDArray[np.intp]:
    """The rising positions of one tensor; in any case at most `most`, below `size`."""
    count = _read_count(decoder, contexts)
    if count > min(size, most):
        raise ProtocolError(f"{count} positions of a tensor are sent, at most {min(size, most)} may be")
    if not count:
        return np.empty(0, np.intp)
    by_column = mask.ndim > 1 and decoder.bit(contexts.by_column)
    found = np.fromiter(_read_positions(decoder, contexts, count, size), np.intp, count)
    if not by_column:
        return found
    ranks = _ranks_by_column(mask)
    places = np.empty(size, np.intp)
    places[ranks] = np.arange(size)
    return np.sort(places[found])


def _read_positions(decoder: RangeDecoder, contexts: _Contexts, count: int, size: int) -> Iterator[int]:
    shift, before, position = _shift(size, count), 0, -1
    for _ in range(count):
        row, quotient = contexts.quotients[before], 0
        while decoder.bit(row[quotient if quotient < _STEPS else -1]):
            quotient += 1
            if quotient << shift > size:
                raise ProtocolError(f"a position does not fit in {size}")
        before = quotient if quotient < _QUOTIENTS else _QUOTIENTS - 1
        gap = quotient << shift
        if shift:
            gap |= decoder.bit(contexts.halves[before]) << (shift - 1) | decoder.plain(shift - 1)
        position += gap + 1
        if position >= size:
            raise ProtocolError(f"position {position} does not fit in {size}")
        yield position


def _write_count(encoder: RangeEncoder, contexts: _Contexts, count: int) -> None:
    """Elias' gamma code of count + 1, with counters for its length."""
    length = (count + 1).bit_length() - 1
    for step in range(length):
        encoder.bit(contexts.lengths[step], 1)
    encoder.bit(contexts.lengths[length], 0)
    encoder.plain((count + 1) - (1 << length), length)


def _read_count(decoder: RangeDecoder, contexts: _Contexts) -> int:
    length = 0
    while decoder.bit(contexts.lengths[length]):
        length += 1
        if length >= 40:
            raise ProtocolError("a tensor has too many positions")
    return (1 << length | decoder.plain(length)) - 1


def _gaps(positions: NDArray[np.intp]) -> NDArray[np.intp]:
    """The number of places before each of the rising positions, since the one before it."""
    return np.diff(positions, prepend=-1) - 1


def _roughness(gaps: NDArray[np.intp]) -> int:
    """The sum of the bits of all gaps: less where short and long ones are apart. An integer, for it decides."""
    return int(np.frexp((gaps + 1).astype(np.float64))[1].sum())


def _shift(size: int, count: int) -> int:
    """The exponent of the power of two at or below the places per position."""
    return (size // count).bit_length() - 1


def _ranks_by_column(mask: Places) -> NDArray[np.intp]:
    """For each alive value, row by row, its place if they were taken column by column; the last axis is the columns."""
    columns = np.flatnonzero(mask) % mask.shape[-1]
    ranks = np.empty(columns.size, np.intp)
    ranks[np.argsort(columns, kind="stable")] = np.arange(columns.size)
    return ranks


def _length_bytes(length: int) -> bytes:
    written = bytearray()
    while length >= 128:
        written.append(length & 127 | 128)
        length >>= 7
    return bytes([*written, length])


def _read_length(reader: Reader) -> int:
    length = 0
    for place in range(_MOST_LENGTH_BYTES):
        byte = reader.take(1)[0]
        length |= (byte & 127) << 7 * place
        if byte < 128:
            if place and not byte:
                break
            return length
    raise ProtocolError("the length of the positions is not written as a writer writes it")
