"""Subsampling: an unbiased estimate of an update from values at places that both sides draw.

Konecny et al. 2016 ("Federated learning: strategies for improving communication efficiency", section 3, arXiv
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
    Vector,
    put,
    sizes_of,
    take,
)
from fedprune.codecs.random_mask import draw_places


@dataclass(frozen=True)
class Subsample(Stateless):
    """Keeps k = round(fraction n) of the n alive values, 1 at least, which the receiver multiplies by n / k.

    The expectation of what arrives is the update.

    Example:
        >>> link, key, values = Subsample(0.5), Key(1, 0, "pi-1"), {"bias": np.ones(4, np.float32)}
        >>> sent, support, _ = link.apply(values, {}, {}, key)
        >>> _, restore = link.invert(sizes_of(values), key, lambda *_: support)
        >>> sorted(restore(sent)["bias"].tolist())
        [0.0, 0.0, 2.0, 2.0]
    """

    fraction: float

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"subsample({self.fraction:g}): the fraction must be above 0, and 1 at most")

    def apply(self, tensors: Tensors, support: Support, state: State, key: Key) -> tuple[Tensors, Support, State]:  # noqa: ARG002
        drawn = draw_places(self.fraction, sizes_of(tensors), key)
        return take(tensors, drawn), drawn, state

    def invert(self, sizes: Sizes, key: Key, choose: Choose) -> tuple[Sizes, Restore]:  # noqa: ARG002
        counts, put_back = put(draw_places(self.fraction, sizes, key))
        scale = np.float32(sum(sizes.values()) / max(1, sum(counts.values())))

        def restore(tensors: Tensors) -> dict[str, Vector]:
            return put_back({name: vector * scale for name, vector in tensors.items()})

        return counts, restore
