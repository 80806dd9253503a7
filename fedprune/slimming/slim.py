"""Removing units: a smaller description, smaller weights, and where each of their entries was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Array, TensorSpec, TensorTable, Weights
from fedprune.network.description import Network
from fedprune.network.layers import AnyLayer, Reshape
from fedprune.slimming.groups import DependencyGroups, Kept, kept_entries
from fedprune.slimming.trace import Count, Fold


@dataclass(frozen=True, eq=False)
class Smaller:
    """A network without some units, and the table of its tensors.

    `places` has for each tensor that was cut the axes that were, and which of the entries along them are left.
    """

    network: Network
    table: TensorTable
    places: Mapping[str, Mapping[int, NDArray[np.intp]]]

    def carry(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """What is left of an array that goes with tensor `name`, and has its shape: a mask, a residual, a slot."""
        return _cut(array, self.places.get(name, {}))


@dataclass(frozen=True, eq=False)
class Slimmed(Smaller):
    """A network without some units, the table of its tensors, and their weights."""

    weights: dict[str, Array]


def without_units(groups: DependencyGroups, kept: Kept) -> Smaller:
    """What is left of a network's description. Weights are only cut: what becomes of a removed unit must be zero, or
    nothing that is left may take it, as `prunable_unit_mask` sees to.

    Args:
        groups: the network's.
        kept: bool `[units]`.

    Raises:
        ValueError: a layer would have no unit left.
    """
    places: dict[str, dict[int, NDArray[np.intp]]] = {}
    for axis in groups.axes:
        entries = kept_entries(axis.units, kept)
        if not entries.all():
            places.setdefault(axis.tensor, {})[axis.axis] = np.flatnonzero(entries)
    table = TensorTable(tuple(_spec_without(spec, places.get(spec.name, {})) for spec in groups.table))
    network = _smaller(groups, kept)
    network.check(table)
    return Smaller(network, table, places)


def slim(groups: DependencyGroups, weights: Weights, kept: Kept) -> Slimmed:
    """Remove units: what is left computes what the network does under `unit_mask(groups, kept)`.

    What becomes of a masked unit is folded into the biases that take it; so the weights of removed units do not matter,
    those of all kept ones but these biases stay as they are.

    Args:
        groups: the network's.
        weights: float32, by tensor name in table order.
        kept: bool `[units]`.

    Raises:
        ValueError: a layer would have no unit left.

    Example:
        >>> from fedprune.model.tensors import TensorClass, TensorSpec
        >>> from fedprune.network.description import Call
        >>> from fedprune.network.layers import Dense
        >>> from fedprune.slimming.groups import dependency_groups
        >>> layers = (Dense(name="a", units=3, kernel="a"), Dense(name="b", units=1, kernel="b"))
        >>> network = Network("net", ((1,),), layers, (Call(0, (0,)), Call(1, (1,))), (2,))
        >>> specs = [TensorSpec(*row, TensorClass.PRUNABLE, row[0]) for row in
        ...     (("a", (1, 3), "float32"), ("b", (3, 1), "float32"))]
        >>> groups = dependency_groups(network, TensorTable(tuple(specs)))
        >>> weights = {"a": np.float32([[1, 2, 3]]), "b": np.float32([[4], [5], [6]])}
        >>> slimmed = slim(groups, weights, np.array([True, False, True]))
        >>> slimmed.network.layers[0].units, slimmed.weights["b"].tolist()
        (2, [[4.0], [6.0]])
        >>> slimmed.carry("a", np.array([[True, True, False]])).tolist()
        [[True, False]]
    """
    smaller = without_units(groups, kept)
    cut = {name: smaller.carry(name, array) for name, array in _folded(groups, weights, kept).items()}
    return Slimmed(smaller.network, smaller.table, smaller.places, cut)


def _folded(groups: DependencyGroups, weights: Weights, kept: Kept) -> dict[str, Array]:
    """The weights with what is left of removed units in the biases that take them. Sums are taken in float64."""
    added: dict[str, NDArray[np.float64]] = {}
    for fold in groups.folds:
        constants = np.where(kept_entries(fold.units, kept), 0.0, fold.constants(weights))
        if constants.any():
            bias = added.setdefault(fold.bias, weights[fold.bias].astype(np.float64))
            _add_products(fold, weights[fold.kernel], constants, bias)
    return {name: added[name].astype(np.float32) if name in added else array for name, array in weights.items()}


def _add_products(fold: Fold, kernel: Array, constants: NDArray[np.float64], bias: NDArray[np.float64]) -> None:
    """Add the products of a kernel, at all places of its windows, with constants to a bias."""
    over_windows = kernel.sum(axis=tuple(range(fold.axis)), dtype=np.float64)
    target = bias if fold.row is None else bias[fold.row]
    target += np.tensordot(constants, over_windows, (0, 0))


def _smaller(groups: DependencyGroups, kept: Kept) -> Network:
    changes: dict[str, dict[str, Any]] = {}
    layers = {layer.name: layer for layer in groups.network.layers}
    for count in groups.counts:
        entries = kept_entries(count.units, kept)
        if not entries.any():
            raise ValueError(f"layer {count.layer!r} would have none of its {count.attribute} left; keep one")
        if not entries.all():
            changes.setdefault(count.layer, {})[count.attribute] = _counted(layers[count.layer], count, entries)
    smaller = (msgspec.structs.replace(layer, **changes.get(layer.name, {})) for layer in groups.network.layers)
    return msgspec.structs.replace(groups.network, layers=tuple(smaller))


def _counted(layer: AnyLayer, count: Count, entries: NDArray[np.bool_]) -> Any:
    """The attribute for those entries that are left."""
    if isinstance(layer, Reshape):
        return (*layer.shape[: count.axis], int(entries.sum()), *layer.shape[count.axis + 1 :])
    value = getattr(layer, count.attribute)
    if isinstance(value, tuple):
        return tuple(number for number, stays in zip(value, entries.tolist(), strict=True) if stays)
    return int(entries.sum())


def _spec_without(spec: TensorSpec, places: Mapping[int, NDArray[np.intp]]) -> TensorSpec:
    shape = tuple(len(places[axis]) if axis in places else size for axis, size in enumerate(spec.shape))
    return msgspec.structs.replace(spec, shape=shape)


def _cut(array: NDArray[Any], places: Mapping[int, NDArray[np.intp]]) -> NDArray[Any]:
    for axis, left in places.items():
        array = np.take(array, left, axis)
    return array
