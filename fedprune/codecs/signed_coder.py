"""Coding of positions and signs by what both sides know of an agent, or of a model.

Each alive place has odds (`fedprune.codecs.likelihood`). Places of all tensors are parted into classes that are about
equally likely. Each class is a line of its own, measured in windows, of which about three hold a position: from the end
of one position on, a counter of the class says of each window whether it is empty; then follows which of the window's
places it is. Last come the signs: of places that the agent has sent before whether they are another now, by counters
that depend on when and how often that was.

There is a step in Python for each position that is sent, and none for others, as in `fedprune.codecs.context`; but
nothing is lost where many of the places are sent, or some are nearly certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.counts import count_chances, read_count, read_with_length, with_length, write_count
from fedprune.codecs.history import MOST_UPDATES, BusyLines, Recalled
from fedprune.codecs.likelihood import LogOdds, PlaceOdds
from fedprune.codecs.links import Places
from fedprune.codecs.range_coder import LARGEST_TOTAL, SMALLEST_WIDTH, Chance, RangeDecoder, RangeEncoder
from fedprune.codecs.reader import Reader
from fedprune.errors import ProtocolError

_Sent = Sequence[Recalled | BusyLines]
"""Of each tensor, in its shape, what the agent has sent; or, of a model, what its last deltas sent of rows and
columns."""

_Classes = NDArray[np.uint8]
"""Of each alive place the number of its class."""

_ONE = 2**24
_QUARTER_POWERS = (16777216, 19951585, 23726566, 28215802)
"""2^0, 2^(1/4), 2^(2/4) and 2^(3/4), in parts of `_ONE`."""

_LOWEST, _HIGHEST = -64, 19
"""Logarithms of odds, in quarters of a power of two, beyond which none are told apart."""

_SPREAD = 96
"""How far those of a tensor's places may lie from 0, before they are shifted by what all have in common."""

_PER_CLASS = 2
"""Logarithms of odds in a class."""

_CLASS_COUNT = (_HIGHEST - _LOWEST) // _PER_CLASS + 1

_CLASS_WEIGHT, _SIGN_WEIGHT = 48, 32
"""Totals of counters that begin with what is expected."""

_FLIPS = (11, 11, 7, 5, 3, 2, 1, 1,
          7, 4, 1, 1, 1, 1, 1, 1,
          4, 1, 1, 1, 2, 2, 2, 2,
          2, 1, 2, 3, 3, 3, 3, 3,
          2, 1, 4, 4, 4, 4, 4, 4,
          1, 3, 3, 3, 3, 3, 3, 3,
          2, 3, 3, 3, 3, 3, 3, 3,
          2, 2, 2, 2, 2, 2, 2, 2)  # fmt: skip
"""How many of 16 signs are another than the last time, of places that the agent sent last in its last update, in the
one before, ..., by how often it had sent them before. Fitted as the odds are."""

_NOTHING = np.empty(0, np.uint8)

_MOST_PLAIN = 16
"""Signs that are written at once."""


class SignedCoder:
    """Positions and signs of the alive values of tensors whose masks all sides know, and where they have `moved`.

    How many bytes (`with_length`), then those of the range coder: without a history the number of positions of each
    tensor; the positions, class by class; the signs, of places that were sent before and then of others.

    Example:
        >>> mask = np.ones((100, 100), np.bool_)
        >>> kept = np.random.default_rng(1).random(10_000) < 0.01
        >>> coder, sent = SignedCoder([mask], [mask]), np.where(kept, 40, 0).astype(np.uint8).reshape(100, 100)
        >>> [len(coder.encode(kept, kept[kept], history)) for history in (None, [sent])]
        [115, 5]
    """

    def __init__(self, masks: Sequence[Places], moved: Sequence[Places]) -> None:
        self._tensors = [PlaceOdds(mask, places) for mask, places in zip(masks, moved, strict=True)]

    def encode(self, kept: Places, negative: Places, history: _Sent | None) -> bytes:
        """Write the places that are True, one tensor after another, and for each whether its value is `negative`.
        `history` is what their sender has sent; None if nothing is known of that."""
        encoder, counts = RangeEncoder(), [0] * len(self._tensors)
        if history is None:
            counts, lengths = [int(np.count_nonzero(part)) for part in self._parted(kept)], count_chances()
            for count in counts:
                write_count(encoder, lengths, count)
        recalled = self._recalled(history)
        order, sizes = self._in_order(counts, recalled, history)
        chosen, start = kept[order], 0
        for number, size in enumerate(sizes):
            _write_class(encoder, number, np.flatnonzero(chosen[start : start + size]), size)
            start += size
        _write_signs(encoder, np.concatenate([*recalled, _NOTHING])[kept], negative)
        return with_length(encoder.finish())

    def read(self, reader: Reader, most: int, history: _Sent | None) -> tuple[Places, Places]:
        """Read at most `most` places, and which of them are negative. Raises `ProtocolError` for bytes that `encode`
        could not have left."""
        decoder, counts = RangeDecoder(read_with_length(reader)), [0] * len(self._tensors)
        if history is None:
            lengths = count_chances()
            counts = [read_count(decoder, lengths, min(tensor.size, most)) for tensor in self._tensors]
        recalled = self._recalled(history)
        order, sizes = self._in_order(counts, recalled, history)
        found, start = list[int](), 0
        for number, size in enumerate(sizes):
            found += _read_class(decoder, number, start, size, most - len(found))
            start += size
        kept = np.zeros(order.size, np.bool_)
        kept[order[np.array(found, np.intp)]] = True
        if history is None and counts != [int(np.count_nonzero(part)) for part in self._parted(kept)]:
            raise ProtocolError("other numbers of positions were sent than was said")
        signs = _read_signs(decoder, np.concatenate([*recalled, _NOTHING])[kept])
        decoder.finish()
        return kept, signs

    def _parted(self, kept: Places) -> list[Places]:
        ends = np.cumsum([tensor.size for tensor in self._tensors], dtype=np.int64)
        return np.split(kept, ends[:-1]) if self._tensors else []

    def _recalled(self, history: _Sent | None) -> list[Recalled]:
        """What the agent has sent in the alive places of each tensor, as far as places are known of."""
        if history is None:
            return [np.zeros(tensor.size, np.uint8) for tensor in self._tensors]
        return [
            np.zeros(tensor.size, np.uint8) if isinstance(sent, BusyLines) else tensor.alive(sent)
            for tensor, sent in zip(self._tensors, history, strict=True)
        ]

    def _in_order(
        self, counts: Sequence[int], recalled: Sequence[Recalled], history: _Sent | None
    ) -> tuple[NDArray[np.intp], list[int]]:
        """The alive places of all tensors, class after class, and how many are in each. With a history as many are
        expected of a tensor as were sent last, or as the last deltas sent on average."""
        found = [_NOTHING]
        for index, tensor in enumerate(self._tensors):
            sent = None if history is None else history[index]
            if sent is None:
                log_odds, expected = tensor.shared, counts[index]
            elif isinstance(sent, BusyLines):
                log_odds, expected = tensor.of_lines(sent), max(1, int(sent.columns.sum()) // sent.each)
            else:
                codes = recalled[index]
                lately = int(np.count_nonzero(codes - np.uint8(1) < 2 * MOST_UPDATES))
                log_odds, expected = tensor.of_agent(codes), max(1, lately)
            found.append(_classes(log_odds, expected))
        classes = np.concatenate(found)
        return np.argsort(classes, kind="stable"), np.bincount(classes, minlength=_CLASS_COUNT).tolist()


def _share(log_odds: int) -> int:
    """The probability of such odds, in parts of `_ONE`."""
    power, quarter = divmod(log_odds, 4)
    odds = _QUARTER_POWERS[quarter] << power if power >= 0 else _QUARTER_POWERS[quarter] >> -power
    return _ONE * odds // (_ONE + odds)


_SHIFTED = np.clip(np.arange(_LOWEST - 2 * _SPREAD, _HIGHEST + 2 * _SPREAD + 1), _LOWEST, _HIGHEST)
"""Logarithms of odds, by how much they are shifted and what they were."""

_SHARES = np.array([_share(int(log_odds)) for log_odds in _SHIFTED], np.int64)
_CLASSES_OF = ((_SHIFTED - _LOWEST) // _PER_CLASS).astype(np.uint8)


def _classes(log_odds: LogOdds, count: int) -> _Classes:
    """The classes of places of which `count` are expected to be sent: all logarithms are shifted by as much as makes
    the probabilities come to that."""
    places, width = np.clip(log_odds, -_SPREAD, _SPREAD) + np.int16(_SPREAD), 2 * _SPREAD + 1
    numbers = np.bincount(places, minlength=width)
    low, high = 0, _SHIFTED.size - width
    while low < high:
        middle = (low + high + 1) // 2
        if int(numbers @ _SHARES[middle : middle + width]) <= count * _ONE:
            low = middle
        else:
            high = middle - 1
    classes: _Classes = _CLASSES_OF[low : low + width][places]
    return classes


def _shift_of(number: int) -> int:
    """The exponent of the length of a class's windows."""
    return max(0, -(_LOWEST + _PER_CLASS * number) // 4 - 1)


def _zeros_of(number: int) -> int:
    """How many of `_CLASS_WEIGHT` windows of a class hold a position."""
    empty = _ONE - _share(_LOWEST + _PER_CLASS * number + _PER_CLASS // 2)
    for _ in range(_shift_of(number)):
        empty = empty * empty // _ONE
    return min(max(_CLASS_WEIGHT - _CLASS_WEIGHT * empty // _ONE, 1), _CLASS_WEIGHT - 1)


_SHIFTS = [_shift_of(number) for number in range(_CLASS_COUNT)]
_ZEROS = [_zeros_of(number) for number in range(_CLASS_COUNT)]


def _write_class(encoder: RangeEncoder, number: int, positions: NDArray[np.intp], size: int) -> None:
    """Write the positions among the places of a class."""
    chance, shift = Chance(_ZEROS[number], _CLASS_WEIGHT), _SHIFTS[number]
    origins = np.concatenate([[0], positions + 1])
    gaps = positions - origins[:-1]
    starts = gaps >> shift << shift
    ends = np.minimum(starts + (1 << shift), size - origins[:-1])
    steps = gaps >> shift, gaps - starts, ends - starts
    for empty, place, length in zip(*(step.tolist() for step in steps), strict=True):
        for _ in range(empty):
            encoder.bit(chance, 1)
        encoder.bit(chance, 0)
        encoder.part(place, 1, length)
    for _ in range(int(origins[-1]), size, 1 << shift):
        encoder.bit(chance, 1)


def _read_class(decoder: RangeDecoder, number: int, start: int, size: int, most: int) -> list[int]:
    """Read at most `most` positions among the `size` places of a class, of which the first one is `start`.

    This is a gateway's most frequent step in Python, so it is one loop over local variables; what it does is what
    `RangeDecoder` does.
    """
    zeros, total, length = _ZEROS[number], _CLASS_WEIGHT, 1 << _SHIFTS[number]
    data, end, at, code, width = decoder.data, len(decoder.data), decoder.at, decoder.code, decoder.width
    found: list[int] = []
    window, size = start, start + size
    while window < size:
        part = width * zeros // total
        is_empty = code >= part
        total += 2
        if is_empty:
            code -= part
            width -= part
        else:
            width = part
            zeros += 2
        if total > LARGEST_TOTAL:
            ones = (total - zeros + 1) // 2
            zeros = (zeros + 1) // 2
            total = zeros + ones
        while width < SMALLEST_WIDTH:
            code = code << 8 | (data[at] if at < end else 0)
            width <<= 8
            at += 1
        if is_empty:
            window += length
            continue
        places = length if window + length <= size else size - window
        width //= places
        place = code // width
        if place >= places or len(found) >= most:
            raise ProtocolError("no encoder writes these bytes")
        code -= place * width
        while width < SMALLEST_WIDTH:
            code = code << 8 | (data[at] if at < end else 0)
            width <<= 8
            at += 1
        found.append(window + place)
        window += place + 1
    decoder.at, decoder.code, decoder.width = at, code, width
    return found


def _sign_chances() -> list[Chance]:
    """The counters of a message's signs that are another than the last time."""
    return [Chance(_SIGN_WEIGHT - _SIGN_WEIGHT * flips // 16, _SIGN_WEIGHT) for flips in _FLIPS]


def _write_signs(encoder: RangeEncoder, recalled: Recalled, negative: Places) -> None:
    """Write the signs of values, of each of which it is `recalled` what its place was sent with before."""
    chances, contexts, was_negative, again = _sign_chances(), *_sent_before(recalled)
    for context, is_other in zip(contexts, (negative[again] ^ was_negative).tolist(), strict=True):
        encoder.bit(chances[context], is_other)
    others = negative[~again]
    for part in _pieces(others.size):
        encoder.plain(int.from_bytes(np.packbits(others[part], bitorder="little").tobytes(), "little"), _width(part))


def _read_signs(decoder: RangeDecoder, recalled: Recalled) -> Places:
    chances, contexts, was_negative, again = _sign_chances(), *_sent_before(recalled)
    negative = np.empty(recalled.size, np.bool_)
    negative[again] = was_negative ^ np.array([decoder.bit(chances[context]) for context in contexts], np.bool_)
    others = np.empty(recalled.size - len(contexts), np.bool_)
    for part in _pieces(others.size):
        bits = np.frombuffer(decoder.plain(_width(part)).to_bytes(2, "little"), np.uint8)
        others[part] = np.unpackbits(bits, count=_width(part), bitorder="little")
    negative[~again] = others
    return negative


def _sent_before(recalled: Recalled) -> tuple[list[int], Places, Places]:
    """Of places that were sent before, the number of the counter of their signs, and whether they were negative; and
    which places these are."""
    again = recalled > 0
    codes = recalled[again] - 1
    return (codes // 2).tolist(), codes % 2 == 1, again


def _pieces(count: int) -> Iterable[slice]:
    return (slice(start, min(start + _MOST_PLAIN, count)) for start in range(0, count, _MOST_PLAIN))


def _width(part: slice) -> int:
    return int(part.stop - part.start)
