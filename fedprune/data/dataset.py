"""Labelled examples in memory: what every loader returns and every trainer takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from fedprune.model.losses import Labels
from fedprune.model.tensors import Array, Inputs


class Dataset:
    """Examples with their labels. Loaders have checked it: nonempty, finite.

    `inputs` are float32 `[examples, ...]`, or int32 where they hold token ids, by the names that their arrays have in
    data files: ``x``, or ``x_NAME`` for each of a model's inputs. `labels` are alike, ``y`` or ``y_NAME``: int64
    `[examples, *places]`, class numbers (of a file any integers, until `fit_to` has looked at them), or float32
    `[examples, *places, outputs]`, what a model should answer (one-hot rows, zeros and ones, any numbers). All may be
    read-only. `weight`, float32 `[examples]`, says how much each example counts in training; None: all count once.
    `origin` says where they came from, for messages.
    """

    def __init__(
        self,
        x: Inputs | Mapping[str, Inputs],
        y: Labels | Mapping[str, Labels],
        origin: str = "data",
        weight: Array | None = None,
    ) -> None:
        """`x` and `y` are several arrays by name, or the only one."""
        self.inputs: Final[Mapping[str, Inputs]] = x if isinstance(x, Mapping) else {"x": x}
        self.labels: Final[Mapping[str, Labels]] = y if isinstance(y, Mapping) else {"y": y}
        self.origin: Final = origin
        self.weight: Final = weight

    def __len__(self) -> int:
        return len(next(iter(self.labels.values())))

    @property
    def x(self) -> Inputs:
        """The only input."""
        return self.inputs["x"]

    @property
    def y(self) -> Labels:
        """The labels of the only output."""
        return self.labels["y"]

    @property
    def class_numbers(self) -> NDArray[np.int64] | None:
        """The class number of each example, `[examples]`, if ``y`` is that."""
        y = self.labels.get("y")
        single = y is not None and y.dtype == np.int64 and y.size == len(self)
        return cast(NDArray[np.int64], self.y.reshape(-1)) if single else None

    @cached_property
    def x_mean(self) -> float:
        """The mean of all inputs."""
        total = sum(float(x.sum(dtype=np.float64)) for x in self.inputs.values())
        return total / sum(x.size for x in self.inputs.values())

    @cached_property
    def x_largest(self) -> float:
        """The largest magnitude of an input."""
        return max(max(float(x.max()), -float(x.min())) for x in self.inputs.values())

    def take(self, indices: NDArray[np.int64]) -> Dataset:
        """The examples at `indices`, copied, in that order (a batch, an agent's share)."""
        return Dataset(
            {name: x[indices] for name, x in self.inputs.items()},
            {name: y[indices] for name, y in self.labels.items()},
            self.origin,
            None if self.weight is None else self.weight[indices],
        )


@dataclass(frozen=True)
class Source:
    """A whole data set, before it is shared out.

    `test` is None where the data have no split of their own. `note` is empty, or says why this is not what was
    asked for. `groups` are the numbers of whom the examples of `train` are of, int64 `[examples]`, where that is known.
    """

    name: str
    train: Dataset
    test: Dataset | None
    note: str = ""
    groups: NDArray[np.int64] | None = None
