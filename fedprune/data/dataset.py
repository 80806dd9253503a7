"""Labelled examples in memory: what every loader returns and every trainer takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples with their class labels. Loaders have checked it: nonempty, finite, labels >= 0.

    `x` is float32 `[examples, ...]`, `y` is int64 `[examples]`.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    @property
    def classes(self) -> int:
        """The smallest number of classes that holds every label: the largest label + 1."""
        return int(self.y.max()) + 1

    def take(self, indices: NDArray[np.int64]) -> Dataset:
        """The examples at `indices`, copied, in that order (a batch, an agent's share)."""
        return Dataset(self.x[indices], self.y[indices])
