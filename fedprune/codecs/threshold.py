"""Hard thresholding: every value of some magnitude is sent, however many there are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedprune.codecs.links import Choose, Key, Restore, Sizes, State, Stateless, Support, Tensors, put, take

_SMALLEST, _LARGEST = float(np.finfo(np.float32).smallest_normal), float(np.finfo(np.float32).max)
"""What is less would be 0 in float32, and zeros be sent; what is more would be infinite."""


@dataclass(frozen=True)
class Threshold(Stateless):
    """Keeps the values whose magnitude is `least` or more.

    Strom 2015 ("Scalable distributed DNN training using commodity GPU cloud computing"); Sahu et al. 2021
    ("Rethinking gradient sparsification as total error minimization", arXiv 2108.00951).

    Example:
        >>> sent, support, _ = Threshold(1.0).apply({"bias": np.float32([1, -4, 0])}, {}, {}, Key(1, 0, "pi-1"))
        >>> sent["bias"].tolist(), support["bias"].tolist()
        ([1.0, -4.0], [True, True, False])
    """

    least: float

    def __post_init__(self) -> None:
        if not _SMALLEST <= self.least <= _LARGEST:
            raise ValueError(f"threshold({self.least:g}): the least magnitude must be above 0 and finite in float32")

    def apply(self, tensors: Tensors, support: Support, state: State, key: Key) -> tuple[Tensors, Support, State]:  # noqa: ARG002
        chosen = {name: np.abs(vector) >= np.float32(self.least) for name, vector in tensors.items()}
        return take(tensors, chosen), chosen, state

    def invert(self, sizes: Sizes, key: Key, choose: Choose) -> tuple[Sizes, Restore]:  # noqa: ARG002
        return put(choose(sizes, sum(sizes.values())))
