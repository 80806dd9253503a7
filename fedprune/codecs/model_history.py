"""What a model's last deltas sent, which belongs to the version that they led to: the next delta is coded by it.

It is how much was sent of each row and each column of each tensor, what is longer ago counting less. More is known of
single places, and tells next to nothing beside it. So it is small, and travels behind a whole model to who fetches
that: all who hold a version hold the same, however they came there. It is empty at the first version, at one that no
delta leads to, and where units leave the network.

==========  ======================================================================================================
4 bytes     magic and version: ``FPH1``
uint8       the count of a line of which each delta sends one place
rest        the count of each row and then of each column, of each prunable and dense tensor in table order: 7 bits in
            each byte, lowest first, with the top bit where another follows
==========  ======================================================================================================

Rows are all axes but the last, which is the columns. With each delta a count loses an eighth, rounded up, and gains 16
for each place of its line that was sent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.history import NO_HISTORY, BusyLines, Counts, History
from fedprune.codecs.links import Tensors
from fedprune.codecs.reader import Reader, naming
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Mask, TensorClass, TensorSpec, TensorTable

NOTHING_SENT = b""
"""Of a version of which nothing is known."""

_MAGIC = b"FPH1"
_MOVING = (TensorClass.PRUNABLE, TensorClass.DENSE)
_FORGOTTEN, _GAINED = 8, 16
_MOST = _FORGOTTEN * _GAINED
"""No count is larger than this for each place of its line."""

_BITS, _MOST_BYTES = 7, 6
"""Of a count as bytes."""


def sent_with(sent: bytes, delta: Tensors, mask: Mask, table: TensorTable) -> bytes:
    """What is known once one more delta was sent.

    Args:
        sent: what was known before, of the same table.
        delta: its alive values by tensor, 0 where it sent nothing.
        mask: that of the version that it leads to.
        table: the task's tensor table.

    Example:
        >>> from fedprune.model.tensors import TensorSpec
        >>> table = TensorTable((TensorSpec("kernel", (2, 3), "float32", TensorClass.DENSE, "dense"),))
        >>> sent = sent_with(NOTHING_SENT, {"kernel": np.float32([0, 2, -2, 0, 1, 0])}, {}, table)
        >>> lines = history_of(sent, table).recalled["kernel"]
        >>> lines.rows.tolist(), lines.columns.tolist()
        ([32, 16], [0, 32, 16])
    """
    each, counts = _read(sent, table) if sent else (0, np.zeros(sum(_lines(table)), np.int64))
    gained = [np.zeros(0, np.int64)]
    for spec in table.of(*_MOVING):
        places = _places(delta[spec.name] != 0.0, mask.get(spec.name), spec)
        gained += [places.sum(1, dtype=np.int64), places.sum(0, dtype=np.int64)]
    numbers = np.concatenate([[each], counts])
    numbers += _GAINED * np.concatenate([[1], *gained]) - (numbers + _FORGOTTEN - 1) // _FORGOTTEN
    return _MAGIC + bytes([int(numbers[0])]) + _written(numbers[1:])


def history_of(sent: bytes, table: TensorTable) -> History:
    """The history by which the next delta is coded."""
    if not sent:
        return NO_HISTORY
    each, counts = _read(sent, table)
    ends = np.cumsum(_lines(table), dtype=np.int64)[:-1]
    lines = iter(np.split(counts, ends))
    return History((sent,), {spec.name: BusyLines(each, next(lines), next(lines)) for spec in table.of(*_MOVING)})


def read_sent(reader: Reader, table: TensorTable) -> bytes:
    """Take all that is left, if it is what `sent_with` makes, or nothing. Raises `ProtocolError` for anything else."""
    size = len(_MAGIC) + 1 + _MOST_BYTES * sum(_lines(table))
    sent = bytes(reader.take(len(reader.peek(size))))
    if sent:
        with naming("what the last deltas sent"):
            _read(sent, table)
    return sent


def _read(sent: bytes, table: TensorTable) -> tuple[int, Counts]:
    """The count of a line of which each delta sends one place, and those of all lines."""
    reader = Reader(sent)
    reader.expect(_MAGIC)
    (each,) = reader.unpack("B")
    if not _GAINED <= each <= _MOST:
        raise ProtocolError(f"{each} is no count of a line of which each delta sends one place")
    found = np.frombuffer(reader.peek(len(sent)), np.uint8)
    is_last = found < 1 << _BITS
    lengths = np.diff(np.flatnonzero(is_last), prepend=-1)
    if lengths.size != sum(_lines(table)) or not is_last[-1:].all() or lengths.max(initial=0) > _MOST_BYTES:
        raise ProtocolError("there are not as many counts as lines, or they are cut off")
    places = np.arange(found.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    parts = (found & ((1 << _BITS) - 1)).astype(np.int64) << _BITS * places
    counts = np.add.reduceat(parts, np.cumsum(lengths) - lengths) if parts.size else np.zeros(0, np.int64)
    if (found[is_last & (places > 0)] == 0).any() or (counts > _largest(table)).any():
        raise ProtocolError("a count is not written as a writer writes it, or is larger than any can be")
    return each, counts


def _written(counts: Counts) -> bytes:
    places = np.arange(_MOST_BYTES)
    parts = counts[:, None] >> _BITS * places
    has_more = (parts >> _BITS) > 0
    written = (parts & ((1 << _BITS) - 1)) | has_more << _BITS
    return bytes(written[(parts > 0) | (places == 0)].astype(np.uint8))


def _lines(table: TensorTable) -> list[int]:
    """The numbers of rows, and of columns, of each tensor."""
    return [count for spec in table.of(*_MOVING) for count in (spec.size // _width(spec), _width(spec))]


def _largest(table: TensorTable) -> NDArray[np.int64]:
    """What the count of each line may be."""
    places = [count for spec in table.of(*_MOVING) for count in (_width(spec), spec.size // _width(spec))]
    return _MOST * np.repeat(np.array(places, np.int64), _lines(table))


def _width(spec: TensorSpec) -> int:
    return max(1, spec.shape[-1] if spec.shape else 1)


def _places(sent: NDArray[np.bool_], kept: NDArray[np.bool_] | None, spec: TensorSpec) -> NDArray[np.bool_]:
    """Where something was sent of a tensor's alive values, by rows and columns."""
    if kept is None:
        return sent.reshape(-1, _width(spec))
    whole = np.zeros(spec.shape, np.bool_)
    whole[kept] = sent
    return whole.reshape(-1, _width(spec))
