"""Labelled examples in memory: what every loader returns and every trainer takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples with their class labels. Loaders have checked it: nonempty, finite, labels >= 0.

    `x` is float32 `[examples, ...]`, `y` is int64 `[examples]`; either may be read-only. `origin` says where they
    came from, for messages.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    origin: str = "data"

    def __len__(self) -> int:
        return len(self.y)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.x.shape[1:]

    @property
    def classes(self) -> int:
        """The smallest number of classes that holds every label: the largest label + 1."""
        return int(self.y.max()) + 1

    def take(self, indices: NDArray[np.int64]) -> Dataset:
        """The examples at `indices`, copied, in that order (a batch, an agent's share)."""
        return Dataset(self.x[indices], self.y[indices], self.origin)


@dataclass(frozen=True)
class Source:
    """A whole data set, before it is shared out.

    `test` is None where the data have no split of their own. `note` is empty, or says why this is not what was
    asked for.
    """

    name: str
    train: Dataset
    test: Dataset | None
    note: str = ""
