"""What an agent has sent: the places and signs of its last accepted updates, which both sides remember.

With error feedback little is owed of what has just been sent, so that it is seldom sent again at once; what was sent
again and again comes back, and nearly always with the same sign. No byte is sent for that: an update only names the
history by which its agent coded it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.links import Tensors
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Mask, TensorClass, TensorTable

MOST_UPDATES = 8
"""Of each agent that are remembered."""

MOST_SIGNS_BYTES = 16 * 1024
"""Of what is remembered of an update. With one that sent more an agent's history begins anew."""

_HEADER = struct.Struct("<IB")

Counts = NDArray[np.int64]

Recalled = NDArray[np.uint8]
"""For each place of a tensor 0 if it was not sent, else 1 + 16 a + 2 b + s: it was sent last a updates before the last
one, b times before that, and s is 1 if it was negative then."""


class BusyLines(NamedTuple):
    """How much a model's last deltas sent of a tensor: the count of each of its rows and columns, and `each`, that of a
    line of which each delta sends one place (`fedprune.codecs.model_history`)."""

    each: int
    rows: Counts
    columns: Counts


@dataclass(frozen=True, eq=False)
class History:
    """What an update is coded by: the `parts` that both sides must have alike, which an update names by their number,
    and what they come to, by tensor.

    Those of an agent are the signs of its last updates, the newest first; a model's is one.
    """

    parts: tuple[bytes, ...] = ()
    recalled: Mapping[str, Recalled | BusyLines] = field(default_factory=dict)

    def check(self, before: int) -> int:
        """A CRC-32 that goes on over the history."""
        for part in self.parts:
            before = zlib.crc32(part, before)
        return before


class OtherHistory(ProtocolError):
    """An update is coded by another history of its agent than is remembered here: it cannot be read, and is to be coded
    once more without one."""


NO_HISTORY = History()
"""Of an update that is coded by what is known of all agents alike."""


def encode_signs(delta: Tensors, mask: Mask, table: TensorTable) -> bytes:
    """Write what an update sent: the number of values of all tensors as uint32; the bytes of a number, 2 or 4; and for
    each place that is not 0 twice the number of places since the one before, and 1 more if it is negative. Nothing if
    that is over `MOST_SIGNS_BYTES`.

    Args:
        delta: the update's alive values by tensor, as in `Update`.
        mask: where prunable tensors are kept.
        table: the task's tensor table.

    Example:
        >>> from fedprune.model.tensors import TensorSpec
        >>> table = TensorTable((TensorSpec("kernel", (4,), "float32", TensorClass.PRUNABLE, "dense"),))
        >>> signs = encode_signs({"kernel": np.float32([0, -3])}, {"kernel": np.array([0, 1, 1, 0], np.bool_)}, table)
        >>> recall([signs], table).recalled["kernel"].tolist()
        [0, 0, 2, 0]
    """
    places, negative, start = [np.array([-1])], [np.empty(0, np.bool_)], 0
    for spec in table.of(TensorClass.PRUNABLE, TensorClass.DENSE):
        sent = np.flatnonzero(delta[spec.name])
        negative.append(delta[spec.name][sent] < 0.0)
        places.append(start + (np.flatnonzero(mask[spec.name])[sent] if spec.name in mask else sent))
        start += spec.size
    numbers = 2 * (np.diff(np.concatenate(places)) - 1) + np.concatenate(negative)
    width = 2 if numbers.max(initial=0) < 2**16 else 4
    signs = _HEADER.pack(start, width) + numbers.astype(f"<u{width}").tobytes()
    return signs if len(signs) <= MOST_SIGNS_BYTES else b""


def recall(signs: Sequence[bytes], table: TensorTable) -> History:
    """Put together what an agent's last updates sent.

    Args:
        signs: those of each, as `encode_signs` wrote them, the newest first; `MOST_UPDATES` count. Of one to a network
            that had other units, and of those before it, nothing is known.
        table: the task's tensor table.
    """
    tensors = table.of(TensorClass.PRUNABLE, TensorClass.DENSE)
    size = sum(spec.size for spec in tensors)
    known = tuple(takewhile(lambda each: _HEADER.unpack_from(each)[0] == size, signs))
    known, recalled = known[:MOST_UPDATES], np.zeros(size, np.uint8)
    for age in reversed(range(len(known))):
        places, negative = _read_signs(known[age])
        former = recalled[places]
        times = np.minimum(np.where(former > 0, times_before(former) + 1, 0), MOST_UPDATES - 1)
        recalled[places] = 1 + 16 * age + 2 * times + negative
    parts = np.split(recalled, np.cumsum([spec.size for spec in tensors])[:-1])
    return History(known, {spec.name: part.reshape(spec.shape) for spec, part in zip(tensors, parts, strict=True)})


def times_before(recalled: Recalled) -> Recalled:
    """How often places that were sent had been sent before the last time."""
    return (recalled - 1) // 2 % MOST_UPDATES


def _read_signs(signs: bytes) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    _, width = _HEADER.unpack_from(signs)
    numbers = np.frombuffer(signs, f"<u{width}", offset=_HEADER.size)
    return np.cumsum(numbers // 2 + 1, dtype=np.int64) - 1, (numbers % 2).astype(np.uint8)
