"""What a model's last deltas sent: it belongs to the version that they led to, and the next delta is coded by it.

It is empty at the first version, and at one that no delta leads to. Whoever applies a delta knows what follows; to who
fetches the whole model it travels behind that, so that all who hold a version hold the same.

==========  ======================================================================================================
4 bytes     magic and version: ``FPH1``
uint8       ages, 1 to 8: how many deltas ago the oldest ones lie that are known of
uint8       times, 0 to 7: how often a place had been sent before the last time, at most
ages        for each age, from the last delta on: which of the alive places that were not sent since it sent (`Smallest`)
times       for each number from 1 on: which of the places that had been sent as often as the number before had been
            once more (`Smallest`); at first of all that are known, in order
signs       a bit for each place that is known: 1 if it was negative the last time
==========  ======================================================================================================

Alive are the places that the version's mask keeps, and all of dense tensors, of all tensors one after another.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from fedprune.codecs.history import MOST_UPDATES, NO_HISTORY, History, Recalled, sent_again, times_before
from fedprune.codecs.links import Places, Tensors
from fedprune.codecs.positions import Smallest
from fedprune.codecs.reader import Reader, naming, pack_bits
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Mask, TensorClass, TensorTable

Sent = Mapping[str, Recalled]
"""By prunable and dense tensor, in its shape, what a model's last deltas sent there: 0 where the mask prunes. Empty if
nothing is known."""

NOTHING_SENT: Sent = MappingProxyType({})

_MAGIC = b"FPH1"
_MOVING = (TensorClass.PRUNABLE, TensorClass.DENSE)
_PER_DELTA = 16
"""By how much what is recalled of a place grows with each delta that does without it."""

_OLDEST = _PER_DELTA * (MOST_UPDATES - 1)
"""What is recalled of a place that was sent so many deltas ago is more than this, and is forgotten with the next one."""


def sent_with(sent: Sent, delta: Tensors, mask: Mask, table: TensorTable) -> dict[str, Recalled]:
    """What is known once one more delta was sent.

    Args:
        sent: what was known before.
        delta: its alive values by tensor, 0 where it sent nothing.
        mask: that of the version that it leads to.
        table: the task's tensor table.

    Example:
        >>> from fedprune.model.tensors import TensorSpec
        >>> table = TensorTable((TensorSpec("bias", (3,), "float32", TensorClass.DENSE, "dense"),))
        >>> first = sent_with({}, {"bias": np.float32([0, 2, -2])}, {}, table)
        >>> first["bias"].tolist(), sent_with(first, {"bias": np.float32([0, 0, -1])}, {}, table)["bias"].tolist()
        ([0, 1, 2], [0, 17, 4])
    """
    following = {}
    for spec in table.of(*_MOVING):
        before = sent.get(spec.name, np.zeros(spec.shape, np.uint8))
        kept = mask.get(spec.name)
        alive = before.reshape(-1) if kept is None else before[kept]
        recalled = np.where((alive > 0) & (alive <= _OLDEST), alive + np.uint8(_PER_DELTA), np.uint8(0))
        places = np.flatnonzero(delta[spec.name])
        recalled[places] = sent_again(alive[places], (delta[spec.name][places] < 0.0).astype(np.uint8))
        following[spec.name] = _put(recalled, spec.shape, kept)
    return following


def history_of(sent: Sent) -> History:
    """The history by which the next delta is coded: of the places that it finds alive, whatever was sent elsewhere."""
    if not any(recalled.any() for recalled in sent.values()):
        return NO_HISTORY
    return History((b"".join(recalled.tobytes() for recalled in sent.values()),), sent)


def encode_sent(sent: Sent, mask: Mask) -> bytes:
    """Write what a version's last deltas sent; nothing if nothing is known.

    Args:
        sent: by tensor, in table order.
        mask: the version's.
    """
    codes = _alive(sent, mask)
    if not codes.any():
        return b""
    parts, known = list[bytes](), codes[codes > 0]
    ages, times = (known - 1) // _PER_DELTA, times_before(known)
    rest = (codes - 1) // _PER_DELTA
    for age in range(int(ages.max()) + 1):
        parts.append(Smallest().encode(rest == age))
        rest = rest[rest != age]
    for number in range(1, int(times.max()) + 1):
        times = times[times >= number - 1]
        parts.append(Smallest().encode(times >= number))
    header = _MAGIC + bytes([int(ages.max()) + 1, int(times.max())])
    return b"".join([header, *parts, pack_bits((known - 1) % 2)])


def read_sent(reader: Reader, mask: Mask, table: TensorTable) -> Sent:
    """Read what `encode_sent` wrote; nothing if nothing is left. Raises `ProtocolError` for bytes that it would not have written."""
    if not reader.peek(1):
        return NOTHING_SENT
    reader.expect(_MAGIC)
    with naming("what the last deltas sent"):
        ages, times = reader.unpack("BB")
        if not 1 <= ages <= MOST_UPDATES or times >= MOST_UPDATES:
            raise ProtocolError(f"of {ages} deltas, and {times} times before, are none that are remembered")
        codes = np.zeros(sum(_sizes(mask, table)), np.uint8)
        for age in range(ages):
            rest = np.flatnonzero(codes == 0)
            found = rest[Smallest().read(reader, rest.size, rest.size)]
            codes[found] = 1 + _PER_DELTA * age
        known = again = np.flatnonzero(codes)
        for _ in range(times):
            again = again[Smallest().read(reader, again.size, again.size)]
            codes[again] += np.uint8(2)
        if not found.size or not again.size:
            raise ProtocolError("nothing is as old, or was sent as often, as is said")
        codes[known] += reader.bits(known.size)
    return _parted(codes, mask, table)


def _alive(sent: Sent, mask: Mask) -> Recalled:
    """What is recalled of the alive places of all tensors."""
    parts = [part[mask[name]] if name in mask else part.reshape(-1) for name, part in sent.items()]
    return np.concatenate([*parts, np.empty(0, np.uint8)])


def _sizes(mask: Mask, table: TensorTable) -> list[int]:
    return [int(np.count_nonzero(mask[spec.name])) if spec.name in mask else spec.size for spec in table.of(*_MOVING)]


def _parted(codes: Recalled, mask: Mask, table: TensorTable) -> dict[str, Recalled]:
    """The places of each tensor, of the alive ones of all."""
    ends = np.cumsum(_sizes(mask, table))[:-1]
    return {
        spec.name: _put(part, spec.shape, mask.get(spec.name))
        for spec, part in zip(table.of(*_MOVING), np.split(codes, ends), strict=True)
    }


def _put(alive: Recalled, shape: tuple[int, ...], kept: Places | None) -> Recalled:
    """Alive places in a tensor's shape."""
    if kept is None:
        return alive.reshape(shape)
    whole = np.zeros(shape, np.uint8)
    whole[kept] = alive
    return whole
