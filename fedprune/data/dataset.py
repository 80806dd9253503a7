"""Labelled examples in memory: what every loader returns and every trainer takes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fedprune.model.losses import Labels
from fedprune.model.tensors import Inputs


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples with their labels. Loaders have checked it: nonempty, finite.

    `x` is float32 `[examples, ...]`, or int32 where it holds token ids. `y` is int64 `[examples, *places]`, class
    numbers (of a file any integers, until `fit_to` has looked at them), or float32 `[examples, *places, outputs]`, what
    a model should answer (one-hot rows, zeros and ones, any numbers); either may be read-only. `origin` says where they
    came from, for messages.
    """

    x: Inputs
    y: Labels
    origin: str = "data"

    def __len__(self) -> int:
        return len(self.y)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.x.shape[1:]

    @property
    def class_numbers(self) -> NDArray[np.int64] | None:
        """The class number of each example, `[examples]`, if `y` is that."""
        single = self.y.dtype == np.int64 and self.y.size == len(self)
        return cast(NDArray[np.int64], self.y.reshape(-1)) if single else None

    @property
    def classes(self) -> int:
        """The smallest number of classes that holds every integer of `y`, the largest + 1; 0 where `y` is floats."""
        return int(self.y.max()) + 1 if self.y.dtype == np.int64 else 0

    @cached_property
    def x_mean(self) -> float:
        """The mean of all inputs."""
        return float(self.x.mean(dtype=np.float64))

    @cached_property
    def x_largest(self) -> float:
        """The largest magnitude of an input."""
        return max(float(self.x.max()), -float(self.x.min()))

    @property
    def holds_ids(self) -> bool:
        """True if `x` holds token ids."""
        return self.x.dtype == np.int32

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
