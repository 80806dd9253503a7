"""Clipping: an update that is longer than a bound is scaled down to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedprune.codecs.links import Key, Rounding, State, Support, Tensors
from fedprune.model.tensors import euclidean_norm


@dataclass(frozen=True)
class Clip(Rounding):
    """Scales an update down to the Euclidean norm `most` over all tensors, if it is longer.

    What is cut off is gone: no error feedback brings it back, and so it stands before it.

    Example:
        >>> sent, _, _ = Clip(1.0).apply({"bias": np.float32([3, 4])}, {}, {}, Key(1, 0, "pi-1"))
        >>> sent["bias"].round(3).tolist()
        [0.6000000238418579, 0.800000011920929]
    """

    most: float

    def __post_init__(self) -> None:
        if not 0.0 < self.most < float("inf"):
            raise ValueError(f"clip({self.most:g}): the largest norm must be above 0 and finite")

    def apply(self, tensors: Tensors, support: Support, state: State, key: Key) -> tuple[Tensors, Support, State]:  # noqa: ARG002
        norm = euclidean_norm(tensors)
        if norm > self.most:
            tensors = {name: vector * np.float32(self.most / norm) for name, vector in tensors.items()}
        return tensors, support, state
