"""A random mask: values at places that both sides draw, so that these cost no byte.

Konecny et al. 2016 ("Federated learning: strategies for improving communication efficiency", section 2, arXiv
1610.05492).
"""

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


@dataclass(frozen=True)
class RandomMask(Stateless):
    """Keeps round(fraction n) of the n alive values of all tensors, 1 at least, drawn anew for each agent and round.

    The values are sent as they are, so what arrives is a part of the update and not an estimate of it.

    Example:
        >>> sent, support, _ = RandomMask(0.5).apply({"bias": np.float32([1, 2, 3, 4])}, {}, {}, Key(1, 0, "pi-1"))
        >>> sent["bias"].size, int(np.count_nonzero(support["bias"]))
        (2, 2)
    """

    fraction: float

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"random_mask({self.fraction:g}): the fraction must be above 0, and 1 at most")

    def apply(self, tensors: Tensors, support: Support, state: State, key: Key) -> tuple[Tensors, Support, State]:  # noqa: ARG002
        drawn = draw_places(self.fraction, sizes_of(tensors), key)
        return take(tensors, drawn), drawn, state

    def invert(self, sizes: Sizes, key: Key, choose: Choose) -> tuple[Sizes, Restore]:  # noqa: ARG002
        return put(draw_places(self.fraction, sizes, key))


def draw_places(fraction: float, sizes: Sizes, key: Key) -> Support:
    """Draw round(fraction n) of all n places, 1 at least: those with the largest of n random integers."""
    count = sum(sizes.values())
    most = min(count, max(1, round(fraction * count)))
    places = np.ones(count, np.bool_) if most == count else largest(key.stream("places").integers(count), most)
    return split(places, sizes)
