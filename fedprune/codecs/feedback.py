"""Error feedback: what the links after it lose in one round is sent in a later one.

Seide et al. 2014 ("1-bit stochastic gradient descent"); Karimireddy et al. 2019 ("Error feedback fixes signSGD",
algorithm 1, arXiv 1901.09847).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedprune.codecs.links import Choose, Key, Link, Restore, Sizes, State, Support, Tensors, Vector, sizes_of
from fedprune.model.tensors import TensorTable, euclidean_norm


@dataclass(frozen=True)
class Feedback:
    """Sends values and what is owed through `inner`; what the receiver does not get of it is owed from then on.

    What is owed is never longer than `cap` times the round's own values, over all tensors, neither when it is sent nor
    when it is left: what one bad round leaves behind must not drown later ones.

    Example:
        >>> from fedprune.codecs.topk import TopK
        >>> link, key, values = Feedback(2.0, TopK(0.5)), Key(1, 0, "pi-1"), {"bias": np.float32([2, 1])}
        >>> first, _, owed = link.apply(values, {}, {}, key)
        >>> second, support, _ = link.apply(values, {}, owed, key)
        >>> first["bias"].tolist(), owed["bias"].tolist(), support["bias"].tolist()
        ([2.0], [0.0, 1.0], [True, False])
    """

    cap: float
    inner: Link

    def __post_init__(self) -> None:
        if not 0.0 < self.cap < float("inf"):
            raise ValueError(f"feedback({self.cap:g}): the cap must be above 0 and finite")

    def init(self, table: TensorTable) -> State:
        return self.inner.init(table)

    def apply(self, tensors: Tensors, support: Support, state: State, key: Key) -> tuple[Tensors, Support, State]:
        most = self.cap * euclidean_norm(tensors)
        wanted = _with_owed(tensors, state, most)
        sent, support, _ = self.inner.apply(wanted, support, {}, key)
        _, restore = self.inner.invert(sizes_of(wanted), key, lambda *_, chosen=support: chosen)
        arrived = restore(sent)
        owed = {name: _less(wanted[name], arrived.pop(name)) for name in list(wanted)}
        _cap(owed, most)
        return sent, support, owed

    def invert(self, sizes: Sizes, key: Key, choose: Choose) -> tuple[Sizes, Restore]:
        return self.inner.invert(sizes, key, choose)

    def defer(self, tensors: Tensors, state: State) -> State:
        """All that is owed if nothing of `tensors` is sent, or what was sent did not count."""
        most = self.cap * euclidean_norm(tensors)
        owed = _with_owed(tensors, state, most)
        _cap(owed, most)
        return owed


def _with_owed(tensors: Tensors, state: State, most: float) -> dict[str, Vector]:
    """New vectors of `tensors` and what is owed, which is at most as long as `most`."""
    norm = euclidean_norm(state)
    scale = np.float32(most / norm if norm > most else 1.0)
    wanted = {}
    for name, vector in tensors.items():
        wanted[name] = vector + np.float32(0.0) if name not in state else state[name] * scale
        if name in state:
            wanted[name] += vector
    return wanted


def _less(wanted: Vector, arrived: Vector) -> Vector:
    """wanted - arrived, in the place of `wanted` unless that is what is sent."""
    return np.subtract(wanted, arrived, out=None if np.may_share_memory(wanted, arrived) else wanted)


def _cap(owed: Tensors, most: float) -> None:
    """Scale it down in place to the norm `most`, if it is longer."""
    norm = euclidean_norm(owed)
    if norm > most:
        for vector in owed.values():
            vector *= np.float32(most / norm)
