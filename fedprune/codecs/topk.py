"""Top-k sparsification: the largest values are sent, wherever they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedprune.codecs.links import (
    Choose,
    Key,
    Restore,
    Sizes,
    State,
    Stateless,
    Support,
    Tensors,
    put,
    sizes_of,
    split,
    take,
)
from fedprune.pruning.masks import largest


class Largest(Stateless):
    """Keeps the `most(n)` largest magnitudes of the n alive values of all tensors together.

    Of equal ones those that come first; never a zero.
    """

    def most(self, alive: int) -> int:
        """The number of values that are sent of so many, at most."""
        raise NotImplementedError

    def apply(self, tensors: Tensors, support: Support, state: State, key: Key) -> tuple[Tensors, Support, State]:  # noqa: ARG002
        if not tensors:
            return tensors, {}, state
        magnitudes = np.concatenate(list(tensors.values()))
        np.abs(magnitudes, out=magnitudes)
        chosen = split(largest(magnitudes, self.most(magnitudes.size)) & (magnitudes > 0.0), sizes_of(tensors))
        return take(tensors, chosen), chosen, state

    def invert(self, sizes: Sizes, key: Key, choose: Choose) -> tuple[Sizes, Restore]:  # noqa: ARG002
        return put(choose(sizes, self.most(sum(sizes.values()))))


@dataclass(frozen=True)
class TopK(Largest):
    """Keeps the round(fraction n) largest magnitudes, 1 at least.

    Aji and Heafield 2017 ("Sparse communication for distributed gradient descent", arXiv 1704.05021).

    Example:
        >>> sent, support, _ = TopK(0.5).apply({"bias": np.float32([1, -4, 0, 2])}, {}, {}, Key(1, 0, "pi-1"))
        >>> sent["bias"].tolist(), support["bias"].tolist()
        ([-4.0, 2.0], [False, True, False, True])
    """

    fraction: float

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"topk({self.fraction:g}): the fraction must be above 0, and 1 at most")

    def most(self, alive: int) -> int:
        return min(alive, max(1, round(self.fraction * alive)))
