"""Links: compressors of whole updates, and the one way to join them.

An update's *alive* values are those that its mask keeps, tensor by tensor, in one dimension. A link takes such values
and hands on others: fewer of them, others in their place, or the same ones rounded. What a receiver makes of that it
finds by `invert`, which a sender asks too if it has to know what arrives.

    >>> from fedprune.codecs.ternary import Ternary
    >>> from fedprune.codecs.topk import TopK
    >>> link, key = chain(TopK(0.5), Ternary()), Key(1, 0, "pi-1")
    >>> tensors, support, _ = link.apply({"kernel": np.float32([3, 0.1, -1, 0.2])}, {}, {}, key)
    >>> tensors["kernel"].tolist(), support["kernel"].tolist()
    ([2.0, -2.0], [True, False, True, False])
    >>> _, restore = link.invert({"kernel": 4}, key, lambda *_: support)
    >>> restore(tensors)["kernel"].tolist()
    [2.0, 0.0, -2.0, 0.0]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.reader import Reader
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorTable
from fedprune.pruning.masks import put_kept, take_kept

Vector = NDArray[np.float32]
"""A float32 array of one dimension."""

Places = NDArray[np.bool_]
"""True at some places of a vector; one dimension."""

Tensors = Mapping[str, Vector]
"""Vectors by tensor, in the order of the tensor table."""

Support = Mapping[str, Places]
"""By tensor, which of its alive values are sent. All are of a tensor that is not named."""

State = Mapping[str, Vector]
"""All that a chain carries from one round to the next: what is owed of the alive values, by tensor.

A tensor that is not named is owed nothing."""

Sizes = Mapping[str, int]
"""The number of values of each tensor."""

Choose = Callable[[Sizes, int], Support]
"""Tells which of so many values a sender chose, given the most that it may have chosen of all."""

Restore = Callable[[Tensors], dict[str, Vector]]
"""Puts back what links took out or turned into something else."""


@dataclass(frozen=True)
class Key:
    """The agent and the round that an update is of: all randomness of links follows from it, on both sides."""

    seed: int
    round: int
    agent: str

    def stream(self, purpose: str) -> Keyed:
        """Random numbers for a `purpose` of this update, always the same ones."""
        return Keyed(self.seed, self.round, self.agent, "codec", purpose)


class Link(Protocol):
    """One compressor. It is a value: all that changes is in the state that it is given and returns."""

    def init(self, table: TensorTable) -> State:
        """The state of a sender that has sent nothing yet."""

    def apply(self, tensors: Tensors, support: Support, state: State, key: Key) -> tuple[Tensors, Support, State]:
        """Compress an update.

        Args:
            tensors: finite; they are not changed, and may be handed on.
            support: the alive values that `tensors` holds.
            state: what the last `apply` returned that counted, of what the mask still keeps.
            key: the update's.

        Returns:
            What is sent instead, of which alive values, and the state once that has arrived.
        """

    def invert(self, sizes: Sizes, key: Key, choose: Choose) -> tuple[Sizes, Restore]:
        """The number of values that `apply` makes of so many, and what a receiver does to them."""


class ValueCoder(Link, Protocol):
    """The last compressor of a codec, which also knows how its values become bytes.

    Equal values are equal bytes: `read` refuses what `encode` would not have written.
    """

    def encode(self, vectors: Sequence[Vector]) -> bytes:
        """Write finite values; those that `apply` made lose nothing."""

    def read(self, reader: Reader, counts: Sequence[int]) -> list[Vector]:
        """Read vectors of so many values. Raises `ProtocolError` for bytes that `encode` could not have left."""


def chain(*links: Link) -> Link:
    """Join links into one, applied from the first to the last. Chains are links too."""
    return _Chain(links)


class Stateless:
    """Base of links that keep nothing from one round to the next."""

    def init(self, table: TensorTable) -> State:  # noqa: ARG002
        return {}


class Rounding(Stateless):
    """Base of links that change values and not how many there are: a receiver takes what it gets."""

    def invert(self, sizes: Sizes, key: Key, choose: Choose) -> tuple[Sizes, Restore]:  # noqa: ARG002
        return sizes, dict


class _Chain:
    def __init__(self, links: tuple[Link, ...]) -> None:
        self._links = links

    def init(self, table: TensorTable) -> State:
        return {name: owed for link in self._links for name, owed in link.init(table).items()}

    def apply(self, tensors: Tensors, support: Support, state: State, key: Key) -> tuple[Tensors, Support, State]:
        for link in self._links:
            tensors, support, state = link.apply(tensors, support, state, key)
        return tensors, support, state

    def invert(self, sizes: Sizes, key: Key, choose: Choose) -> tuple[Sizes, Restore]:
        restores = []
        for link in self._links:
            sizes, restore = link.invert(sizes, key, choose)
            restores.append(restore)

        def restore_all(tensors: Tensors) -> dict[str, Vector]:
            for restore in reversed(restores):
                tensors = restore(tensors)
            return dict(tensors)

        return sizes, restore_all


def sizes_of(tensors: Tensors) -> dict[str, int]:
    """The number of values of each tensor."""
    return {name: vector.size for name, vector in tensors.items()}


def split(places: Places, sizes: Sizes) -> dict[str, Places]:
    """Cut places of all tensors, one after another, into those of each."""
    ends = np.cumsum(list(sizes.values()))
    return dict(zip(sizes, np.split(places, ends[:-1]), strict=True)) if sizes else {}


def take(tensors: Tensors, support: Support) -> dict[str, Vector]:
    """The values at the places in `support`."""
    return {name: take_kept(vector, support[name]) for name, vector in tensors.items()}


def put(support: Support) -> tuple[Sizes, Restore]:
    """The number of values that `take` gives, and how they come back to their places, with zeros between them."""
    counts = {name: int(np.count_nonzero(places)) for name, places in support.items()}
    return counts, lambda tensors: {name: put_kept(vector, support[name]) for name, vector in tensors.items()}
