"""The codec of updates: compressors joined by `chain`, with byte coders of positions and values below them.

`parse_codec` (`fedprune.codecs.notation`) makes one of its description.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedprune.codecs.context import ContextCoder
from fedprune.codecs.feedback import Feedback
from fedprune.codecs.links import (
    Choose,
    Key,
    Link,
    Places,
    Restore,
    Sizes,
    State,
    Support,
    Tensors,
    ValueCoder,
    Vector,
    chain,
)
from fedprune.codecs.positions import CodingOf
from fedprune.model.tensors import TensorTable


@dataclass(frozen=True, eq=False)
class Compressed:
    """An update as it is sent: values of the tensors, and which of the alive values these are (see `Link.apply`).

    `state` is for the sender's next round, if this update counts.
    """

    tensors: Tensors
    support: Support
    state: State


@dataclass(frozen=True, eq=False)
class Codec:
    """A codec; `description` names it, and equal descriptions are equal codecs.

    `before` stands before the error feedback, of which there may be none, `after` behind it; `values` is the last link.
    `positions` writes which values were chosen, where the receiver cannot know that by itself. `remembers`: positions
    and signs are coded by what the agent has sent, instead.

    Example:
        >>> import numpy as np
        >>> from fedprune.codecs.notation import parse_codec
        >>> codec, delta = parse_codec("mask | feedback(2) | topk(0.25) | ternary | rice"), np.float32([1, 0, -4, 2])
        >>> sent = codec.compress({"kernel": delta}, {}, Key(1, 0, "pi-1"))
        >>> sent.tensors["kernel"].tolist(), sent.state["kernel"].tolist()
        ([-4.0], [1.0, 0.0, 0.0, 2.0])
    """

    description: str
    before: tuple[Link, ...]
    feedback: float | None
    after: tuple[Link, ...]
    values: ValueCoder
    positions: CodingOf | None
    remembers: bool = False

    def __str__(self) -> str:
        return self.description

    @property
    def asks_what_moved(self) -> bool:
        """True if positions are coded by what has moved, so that `moved_since` has to be asked."""
        return self.remembers or self.positions is ContextCoder

    def check(self, moved: Sequence[Places]) -> int:
        """A CRC-32 by which updates are noticed that are of another codec, or coded by something else that moved."""
        check = zlib.crc32(self.description.encode())
        if self.asks_what_moved:
            for places in moved:
                check = zlib.crc32(np.packbits(places).tobytes(), check)
        return check

    def init(self, table: TensorTable) -> State:
        """The state of a sender that has sent nothing yet."""
        return self._link.init(table)

    def compress(self, tensors: Tensors, state: State, key: Key) -> Compressed:
        """Compress an update.

        Args:
            tensors: its alive values, finite, by tensor in the order of the tensor table.
            state: what the sender's last update left, of what the mask still keeps.
            key: the update's.
        """
        sent, support, left = self._link.apply(tensors, {}, state, key)
        return Compressed(sent, support, {} if self.feedback is None else left)

    def defer(self, tensors: Tensors, state: State, key: Key) -> State:
        """The sender's state if the update does not count: with error feedback all of it is owed."""
        if self.feedback is None:
            return {}
        tensors, _, _ = chain(*self.before).apply(tensors, {}, {}, key)
        return Feedback(self.feedback, self.values).defer(tensors, state)

    def arrived(self, sent: Compressed, sizes: Sizes, key: Key) -> dict[str, Vector]:
        """The alive values that a receiver makes of what was sent, of which tensors have `sizes`."""
        _, restore = self.invert(sizes, key, lambda *_: sent.support)
        return restore(sent.tensors)

    def invert(self, sizes: Sizes, key: Key, choose: Choose) -> tuple[Sizes, Restore]:
        """The number of values that are sent of so many alive ones, and how these come back: see `Link.invert`."""
        return self._link.invert(sizes, key, choose)

    @property
    def _link(self) -> Link:
        lossy = chain(*self.after, self.values)
        return chain(*self.before, lossy if self.feedback is None else Feedback(self.feedback, lossy))
