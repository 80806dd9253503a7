"""The walk through a network that finds which entries of which tensors belong to one unit.

Each entry of a value along its axis of channels has a label, and so has each entry of a tensor that makes or takes it.
Layers that need several to go together join their labels; layers that cannot do without one pin it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import TensorClass, TensorTable, Weights
from fedprune.network.description import Network
from fedprune.network.layers import Layer, Shape
from fedprune.slimming.constants import Numbers
from fedprune.slimming.partition import Labels, Partition

Constants = Callable[[Weights], Numbers]
"""From the network's weights to numbers, one for each entry of a value along its axis."""


class Role(Enum):
    """What the entries of a tensor are to a unit."""

    MAKES = auto()
    """Where they are zero the unit is zero: kernels along their outputs, biases, gamma and beta."""
    TAKES = auto()
    """They are multiplied with the unit: kernels along their inputs."""
    FOLLOWS = auto()
    """Statistics of the unit."""


@dataclass(frozen=True, eq=False)
class Axis:
    """The units `[size]` that a tensor's entries along one of its axes belong to, by label or number."""

    tensor: str
    axis: int
    units: Labels
    role: Role


@dataclass(frozen=True, eq=False)
class Count:
    """An attribute of a layer that counts `units`: a number of them, or one number for each of them. Of a shape it is
    the entry `axis`."""

    layer: str
    attribute: str
    units: Labels
    axis: int = 0


@dataclass(frozen=True, eq=False)
class Fold:
    """A kernel that takes units along `axis`, which are always the `constants` where their producers are zero. Their
    products are added to the bias, or to its row `row`."""

    kernel: str
    axis: int
    units: Labels
    constants: Constants
    bias: str
    row: int | None = None


@dataclass(frozen=True, eq=False)
class Value:
    """A value of a network: `labels` `[size]` of its entries along `axis`.

    `is_zero` `[size]` is True for those that are exactly 0 once their unit's producers are; the others are then what
    `constants` says. Without `constants` all are zero.
    """

    shape: Shape
    axis: int
    labels: Labels
    is_zero: NDArray[np.bool_]
    constants: Constants | None = None

    @property
    def is_along_channels(self) -> bool:
        return self.axis == len(self.shape) - 1

    @cached_property
    def nonzero_labels(self) -> Labels:
        return self.labels[~self.is_zero]

    def numbers(self, weights: Weights) -> Numbers:
        """What each entry is once its unit's producers are zero."""
        return np.zeros(len(self.labels)) if self.constants is None else self.constants(weights)

    def moved(self, shape: Shape, axis: int, places: NDArray[np.int64] | None = None) -> Value:
        """The same units in another shape, along another axis; those at `places` if it has others."""
        if places is None:
            return replace(self, shape=shape, axis=axis)
        constants = None if self.constants is None else (lambda weights: self.numbers(weights)[places])
        return Value(shape, axis, self.labels[places], self.is_zero[places], constants)

    def mapped(self, function: Callable[[Numbers, Weights], Numbers], is_zero: NDArray[np.bool_]) -> Value:
        """The same units after a function of single numbers, which leaves those zero that `is_zero` names."""
        return replace(
            self,
            is_zero=is_zero,
            constants=None if is_zero.all() else (lambda weights: function(self.numbers(weights), weights)),
        )


class Trace:
    """All that a walk finds. `table` tells which tensors are frozen; those are not cut."""

    def __init__(self, network: Network, table: TensorTable) -> None:
        self.partition = Partition()
        self.counts: list[Count] = []
        self.folds: list[Fold] = []
        self.read_whole: list[Labels] = []
        """Labels of units that other numbers are computed from in another way than by a kernel."""
        self.made: dict[tuple[str, str], Labels] = {}
        """The labels that each layer makes, by its name and the attribute that counts them."""
        self._axes: dict[tuple[str, int], Axis] = {}
        self._followed: dict[tuple[str, str], Count] = {}
        self._kinds = {spec.name: spec.kind for spec in table}
        self._calls = Counter(layer.name for layer, _ in network.steps())

    @property
    def axes(self) -> tuple[Axis, ...]:
        return tuple(self._axes.values())

    def kept(self, shape: Shape, reason: str) -> Value:
        """A value of which nothing can be removed."""
        size = shape[-1] if shape else 0
        label = self.partition.new(1)
        self.partition.pin(label, reason)
        return Value(shape, len(shape) - 1, np.repeat(label, size), np.ones(size, np.bool_))

    def value(self, shape: Shape, labels: Labels, constants: Constants | None = None) -> Value:
        """A value along the last axis, that is zero or, if they are given, always `constants`."""
        return Value(shape, len(shape) - 1, labels, np.full(len(labels), constants is None), constants)

    def pin(self, layer: Layer, labels: Labels, what: str) -> None:
        """Pin `labels`, since the layer does `what` with them."""
        self.partition.pin(labels, f"layer {layer.name!r} {what}")

    def along_channels(self, layer: Layer, x: Value) -> Value:
        """`x` with units along its last axis, where the layer looks for them. Those that lie elsewhere are kept."""
        if x.is_along_channels:
            return x
        self.pin(layer, x.labels, "takes it along another axis than the last")
        return self.kept(x.shape, f"layer {layer.name!r} takes it as places, not as channels")

    def need_zero(self, layer: Layer, x: Value, why: str) -> None:
        """Pin those units of `x` that do not become zero."""
        self.pin(layer, x.nonzero_labels, f"gets another number than 0 from it once it is masked, {why}")

    def make(self, layer: Layer, attribute: str, size: int) -> Labels:
        """The labels of what a layer makes, which `attribute` counts: the same for each of its calls."""
        key = (layer.name, attribute)
        if key not in self.made:
            self.made[key] = self.partition.new(size)
            self.counts.append(Count(layer.name, attribute, self.made[key]))
        return self.made[key]

    def follow(self, layer: Layer, attribute: str, labels: Labels, axis: int = 0) -> None:
        """An attribute that counts what the layer is given; of all calls together, since the layer is one."""
        first = self._followed.get((layer.name, attribute))
        if first is None:
            first = self._followed[layer.name, attribute] = Count(layer.name, attribute, labels, axis)
            self.counts.append(first)
        elif first.axis == axis:
            self._join(layer, first.units, labels)
        else:
            self.pin(layer, np.concatenate([first.units, labels]), "is called along other axes")

    def tensor(self, layer: Layer, name: str | None, axis: int, labels: Labels, role: Role) -> None:
        """A tensor of the layer with `labels` along an axis, if it is there."""
        if name is None:
            return
        if self._kinds.get(name) is TensorClass.FROZEN:
            self.pin(layer, labels, "is frozen")
        if (name, axis) in self._axes:
            self._join(layer, self._axes[name, axis].units, labels)
        else:
            self._axes[name, axis] = Axis(name, axis, labels, role)

    def take(self, layer: Layer, x: Value, kernel: str, axis: int, bias: str | None, row: int | None = None) -> None:
        """A kernel that is multiplied with `x` along an axis, and the bias that what is constant can be folded into."""
        self.tensor(layer, kernel, axis, x.labels, Role.TAKES)
        if bias is None:
            self.need_zero(layer, x, "and has no bias that it could be folded into")
        elif self._calls[layer.name] > 1:
            self.need_zero(layer, x, "and is called more than once, with one bias")
        elif x.constants is not None:
            self.folds.append(Fold(kernel, axis, x.labels, x.constants, bias, row))

    def _join(self, layer: Layer, first: Labels, second: Labels) -> None:
        """Join labels of one tensor, or attribute, that a layer's calls find."""
        if len(first) == len(second):
            self.partition.join(first, second)
        else:
            self.pin(layer, np.concatenate([first, second]), "is called with other shapes")
