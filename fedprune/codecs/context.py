"""Context coding of positions: an adaptive range coder that expects them where both sides know that weights move.

Each alive place of a tensor has odds (`fedprune.codecs.moved`). Laid end to end, each as long as its odds, the places
make a line on which positions are spread evenly, as far as that is known. It is gone through row by row, or column by
column where that sets long and short gaps apart, and measured in windows (`fedprune.codecs.gaps`), of which about
two hold a position.

There is a step in Python for each position that is sent and none for others: positions that are coded each in a context
of its own, which wants a step for each place, would take minutes for large models on a small device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.counts import count_chances, read_count, read_with_length, with_length, write_count
from fedprune.codecs.gaps import UnaryChance, read_positions, unary_chances, write_positions
from fedprune.codecs.links import Places
from fedprune.codecs.moved import odds
from fedprune.codecs.range_coder import Chance, RangeDecoder, RangeEncoder
from fedprune.codecs.reader import Reader
from fedprune.errors import ProtocolError

_Odds = NDArray[np.int64]
_Numbers = NDArray[np.signedinteger]
"""Of places; int32 where they are kept."""

_MOST_LISTED = 2**18
"""Places of a tensor whose beginnings are kept as Python's numbers, which are found faster and take five times the
memory: 10 MB at most for each of the two ways through it."""


class ContextCoder:
    """Positions of the alive values of tensors whose masks both sides know, and where they have `moved`.

    The number of bytes (7 bits in each, lowest first, with the top bit where another follows), then those of the range
    coder: for each tensor the number of positions, 1 for column by column or 0, and the positions.

    Example:
        >>> mask = np.ones((100, 100), np.bool_)
        >>> kept = np.random.default_rng(1).random(10_000) < 0.01
        >>> [len(ContextCoder([mask], [moved]).encode(kept)) for moved in (~mask, kept.reshape(100, 100))]
        [107, 82]
    """

    def __init__(self, masks: Sequence[Places], moved: Sequence[Places]) -> None:
        self._lines = [_Line(mask, places) for mask, places in zip(masks, moved, strict=True)]

    def encode(self, kept: Places) -> bytes:
        encoder, contexts = RangeEncoder(), _Contexts()
        start = 0
        for line in self._lines:
            _write_tensor(encoder, contexts, np.flatnonzero(kept[start : start + line.size]), line)
            start += line.size
        return with_length(encoder.finish())

    def read(self, reader: Reader, size: int, most: int) -> Places:
        decoder, contexts = RangeDecoder(read_with_length(reader)), _Contexts()
        kept = np.zeros(size, np.bool_)
        start = 0
        for line in self._lines:
            found = _read_tensor(decoder, contexts, line, most)
            most -= found.size
            kept[start + found] = True
            start += line.size
        decoder.finish()
        return kept


class _Line:
    """The alive places of a tensor, end to end."""

    def __init__(self, mask: Places, moved: Places) -> None:
        self._mask, self._moved = mask, moved
        self.size = int(np.count_nonzero(mask))
        self.has_columns = mask.ndim > 1

    @cached_property
    def by_row(self) -> _Odds:
        """Where each place begins, and the last one ends."""
        return np.concatenate([[0], np.cumsum(self._odds)])

    @cached_property
    def by_column(self) -> _Odds:
        """The same if the places are taken column by column."""
        return np.concatenate([[0], np.cumsum(self._odds[self.columns])])

    @cached_property
    def found_by_row(self) -> Sequence[int]:
        """`by_row`, to find places in one by one."""
        return _to_search(self.by_row)

    @cached_property
    def found_by_column(self) -> Sequence[int]:
        """`by_column` likewise."""
        return _to_search(self.by_column)

    @cached_property
    def columns(self) -> _Numbers:
        """The places, numbered row by row, as they come column by column; the last axis is the columns."""
        return np.argsort(np.flatnonzero(self._mask) % self._mask.shape[-1], kind="stable").astype(np.int32)

    @cached_property
    def ranks(self) -> _Numbers:
        """The number of each place, as they come row by row, among them column by column."""
        ranks = np.empty_like(self.columns)
        ranks[self.columns] = np.arange(self.size, dtype=np.int32)
        return ranks

    def is_by_column(self, positions: _Numbers, transposed: _Numbers) -> bool:
        """True if a writer goes through it column by column for positions that are `transposed` so."""
        return _roughness(self.by_column, transposed) < _roughness(self.by_row, positions)

    @property
    def _odds(self) -> _Odds:
        return odds(self._mask, self._moved)


@dataclass
class _Contexts:
    """The counters of one message."""

    lengths: list[Chance] = field(default_factory=count_chances)
    by_column: Chance = field(default_factory=Chance)
    numbers: UnaryChance = field(default_factory=unary_chances)


def _write_tensor(encoder: RangeEncoder, contexts: _Contexts, positions: _Numbers, line: _Line) -> None:
    write_count(encoder, contexts.lengths, positions.size)
    if not positions.size:
        return
    starts = line.by_row
    if line.has_columns:
        transposed = np.sort(line.ranks[positions])
        by_column = line.is_by_column(positions, transposed)
        encoder.bit(contexts.by_column, by_column)
        if by_column:
            starts, positions = line.by_column, transposed
    write_positions(encoder, contexts.numbers, positions, starts)


def _read_tensor(decoder: RangeDecoder, contexts: _Contexts, line: _Line, most: int) -> _Numbers:
    """The rising positions of one tensor; in any case at most `most`, below its size."""
    count = read_count(decoder, contexts.lengths, min(line.size, most))
    if not count:
        return np.empty(0, np.intp)
    by_column = line.has_columns and bool(decoder.bit(contexts.by_column))
    starts = line.found_by_column if by_column else line.found_by_row
    found = np.array(read_positions(decoder, contexts.numbers, count, starts), np.intp)
    if not line.has_columns:
        return found
    positions = np.sort(line.columns[found]) if by_column else found
    transposed = found if by_column else np.sort(line.ranks[found])
    if by_column != line.is_by_column(positions, transposed):
        raise ProtocolError("the places are not laid as a writer lays them")
    return positions


def _roughness(starts: _Odds, positions: _Numbers) -> int:
    """The sum of the bits of all gaps: less where short and long ones are apart. An integer, for it decides."""
    gaps = starts[positions]
    gaps[1:] -= starts[positions[:-1] + 1]
    gaps += 1
    return int(np.frexp(gaps)[1].sum())


def _to_search(starts: _Odds) -> Sequence[int]:
    return starts.tolist() if starts.size <= _MOST_LISTED else starts.data
