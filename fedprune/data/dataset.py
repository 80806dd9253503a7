"""Labelled examples: what every loader returns and every trainer takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from fedprune.data.stored_rows import PART_BYTES, StoredRows
from fedprune.model.losses import Labels
from fedprune.model.tensors import Array, Inputs


@dataclass(frozen=True, eq=False)
class Provenance:
    """Of whom, and of which recording, each example is: those of one are alike, or even share what was measured.

    `groups` are numbers of persons, machines, files, int32 `[examples]`. `stretches` are numbers of recordings without
    a gap, int32 `[examples]`, in which examples are in the order of time; None where no order is known. In a stretch an
    example shares rows with the next `overlap` ones.
    """

    groups: NDArray[np.int32]
    stretches: NDArray[np.int32] | None = None
    overlap: int = 0

    def only(self, rows: slice | NDArray[np.int64]) -> Provenance:
        stretches = None if self.stretches is None else self.stretches[rows]
        return Provenance(self.groups[rows], stretches, self.overlap)


class Examples:
    """Examples with their labels, of which each array is in memory or on a disk. Loaders have checked it: nonempty,
    finite.

    `inputs` are float32 `[examples, ...]`, or int32 where they hold token ids, by the names that their arrays have in
    data files: ``x``, or ``x_NAME`` for each of a model's inputs. `labels` are alike, ``y`` or ``y_NAME``: int64
    `[examples, *places]`, class numbers (of a file any integers, until `fit_to` has looked at them), or float32
    `[examples, *places, outputs]`, what a model should answer (one-hot rows, zeros and ones, any numbers). All may be
    read-only. `weight`, float32 `[examples]`, says how much each example counts in training; None: all count once.
    `origin` says where they came from, for messages. `provenance` is None where it is not known.
    """

    inputs: Mapping[str, Inputs | StoredRows]
    labels: Mapping[str, Labels | StoredRows]

    def __init__(
        self,
        inputs: Mapping[str, Inputs | StoredRows],
        labels: Mapping[str, Labels | StoredRows],
        origin: str = "data",
        weight: Array | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        self.inputs = inputs
        self.labels = labels
        self.origin = origin
        self.weight = weight
        self.provenance = provenance

    def __len__(self) -> int:
        return len(next(iter(self.labels.values())))

    @property
    def stored(self) -> list[StoredRows]:
        """The arrays that are on a disk."""
        return [rows for rows in (*self.inputs.values(), *self.labels.values()) if isinstance(rows, StoredRows)]

    @property
    def in_memory(self) -> Dataset:
        """The same examples, if none of their arrays is on a disk: whoever gave the room has seen to that."""
        assert not self.stored, self.origin
        inputs, labels = cast(Any, self.inputs), cast(Any, self.labels)
        return Dataset(inputs, labels, self.origin, self.weight, self.provenance)

    @cached_property
    def x_mean(self) -> float:
        """The mean of all inputs."""
        total = sum(float(x.sum(dtype=np.float64)) for part in self.parts() for x in part.inputs.values())
        return total / sum(math.prod(x.shape) for x in self.inputs.values())

    @cached_property
    def x_largest(self) -> float:
        """The largest magnitude of an input."""
        return max(max(float(x.max()), -float(x.min())) for part in self.parts() for x in part.inputs.values())

    def of(self, provenance: Provenance | None) -> Self:
        """The same examples, of which it is known where they are from."""
        return type(self)(self.inputs, self.labels, self.origin, self.weight, provenance)

    def with_arrays(self, inputs: Mapping[str, Any], labels: Mapping[str, Any]) -> Self:
        """Other arrays of the same examples."""
        return type(self)(inputs, labels, self.origin, self.weight, self.provenance)

    def take(self, indices: NDArray[np.int64]) -> Dataset:
        """The examples at `indices`, copied into memory, in that order (a batch)."""
        return self._at(indices)

    def parts(self, examples: int | None = None) -> Iterator[Dataset]:
        """All examples in order, so many at a time, the last ones fewer: or as many as `PART_BYTES` hold. Arrays that
        are in memory are not copied."""
        arrays = (*self.inputs.values(), *self.labels.values())
        size = examples or max(1, PART_BYTES // sum(math.prod(rows.shape[1:]) * rows.dtype.itemsize for rows in arrays))
        for start in range(0, len(self), size):
            yield self._at(slice(start, start + size))

    def only(self, indices: NDArray[np.int64]) -> Examples:
        """The examples at `indices`, in that order: what is on a disk stays there, what is in memory is copied."""

        def chosen(rows: Any) -> Any:
            return rows.only(indices) if isinstance(rows, StoredRows) else rows[indices]

        return Examples(
            {name: chosen(x) for name, x in self.inputs.items()},
            {name: chosen(y) for name, y in self.labels.items()},
            self.origin,
            None if self.weight is None else self.weight[indices],
            None if self.provenance is None else self.provenance.only(indices),
        )

    def _at(self, rows: slice | NDArray[np.int64]) -> Dataset:
        return Dataset(
            {name: cast(Inputs, x[rows]) for name, x in self.inputs.items()},
            {name: cast(Labels, y[rows]) for name, y in self.labels.items()},
            self.origin,
            None if self.weight is None else self.weight[rows],
            None if self.provenance is None else self.provenance.only(rows),
        )


AnyExamples = TypeVar("AnyExamples", bound=Examples)


class Dataset(Examples):
    """Examples that are in memory."""

    inputs: Mapping[str, Inputs]
    labels: Mapping[str, Labels]

    def __init__(
        self,
        x: Inputs | Mapping[str, Inputs],
        y: Labels | Mapping[str, Labels],
        origin: str = "data",
        weight: Array | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        """`x` and `y` are several arrays by name, or the only one."""
        inputs = x if isinstance(x, Mapping) else {"x": x}
        labels = y if isinstance(y, Mapping) else {"y": y}
        super().__init__(inputs, labels, origin, weight, provenance)

    def only(self, indices: NDArray[np.int64]) -> Dataset:
        return self.take(indices)

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
