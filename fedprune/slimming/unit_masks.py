"""Masks of units: where the weights are that make a unit, and those that take it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Mask, TensorClass, Weights
from fedprune.slimming.groups import KEPT, DependencyGroups, Kept, kept_entries
from fedprune.slimming.trace import Axis, Role

_ALL = frozenset(TensorClass)


def unit_mask(groups: DependencyGroups, kept: Kept) -> dict[str, NDArray[np.bool_]]:
    """The mask of all that makes units: kernels, biases, gamma and beta.

    Args:
        groups: the network's.
        kept: bool `[units]`.

    Returns:
        For each tensor that makes units a bool array of its shape, True where a weight is kept. Where it is applied,
        each other unit is exactly 0 where it is made.
    """
    return _mask(groups, kept, (Role.MAKES,), _ALL)


def prunable_unit_mask(groups: DependencyGroups, kept: Kept) -> dict[str, NDArray[np.bool_]]:
    """The mask of the *prunable* weights that make or take units, which suits a federation's mask.

    Biases, gamma and beta are not pruned there; so a unit may be another number than 0, but no kernel takes it. It can
    be removed without a difference where `maskable` says so.

    Args:
        groups: the network's.
        kept: bool `[units]`.

    Returns:
        For each prunable tensor that has units a bool array of its shape, True where a weight is kept.
    """
    return _mask(groups, kept, (Role.MAKES, Role.TAKES), {TensorClass.PRUNABLE})


def maskable(groups: DependencyGroups) -> NDArray[np.bool_]:
    """For each unit True if its prunable weights alone can mask it: all that takes it are kernels that are pruned."""
    prunable = {spec.name for spec in groups.table.of(TensorClass.PRUNABLE)}
    is_taken, suits = np.zeros(groups.count, np.bool_), ~groups.read_whole
    for axis in groups.axes:
        if axis.role is Role.TAKES:
            units = axis.units[axis.units >= 0]
            is_taken[units] = True
            if axis.tensor not in prunable:
                suits[units] = False
    return is_taken & suits


def units_without(groups: DependencyGroups, mask: Mask) -> NDArray[np.bool_]:
    """For each maskable unit True if `mask`, of prunable tensors, keeps no weight that makes or takes it."""
    has_some = np.zeros(groups.count, np.bool_)
    for axis in groups.axes:
        if axis.tensor in mask and axis.role is not Role.FOLLOWS:
            has_some |= _any(groups, axis, mask[axis.tensor])
    return maskable(groups) & ~has_some


def units_left(groups: DependencyGroups, mask: Mask, before: Kept) -> Kept:
    """The units of those `before` that `mask`, of prunable tensors, leaves something of, bool `[units]`.

    Of the units that a layer makes one is left, since a layer without any is none.
    """
    left = before & ~units_without(groups, mask)
    for made in groups.made:
        if not kept_entries(made.units, left).any():
            left[made.units[before[made.units]][0]] = True
    return left


def units_by_layer(groups: DependencyGroups, units: NDArray[np.bool_]) -> dict[str, int]:
    """How many of `units`, bool `[units]`, each layer makes that makes some."""
    counts: Counter[str] = Counter()
    for made in groups.made:
        own = np.unique(made.units[made.units != KEPT])
        counts[made.layer] += int(units[own].sum())
    return dict(+counts)


def dead_units(groups: DependencyGroups, weights: Weights) -> NDArray[np.bool_]:
    """The units that no output depends on, since weights that make them or weights that take them are all zero.

    A unit that only dead ones take is dead too. Of the units that a layer makes one is left, since a layer without any
    is none.

    Args:
        groups: the network's.
        weights: float32, by tensor name.

    Returns:
        bool `[units]`, True for those that can be removed without a difference.
    """
    dead = np.zeros(groups.count, np.bool_)
    while True:
        alive = _not_zero(groups, weights, ~dead)
        makes, takes, is_taken = (np.zeros(groups.count, np.bool_) for _ in range(3))
        for axis in groups.axes:
            found = _any(groups, axis, alive[axis.tensor])
            if axis.role is Role.MAKES:
                makes |= found
            elif axis.role is Role.TAKES:
                takes |= found
                is_taken[axis.units[axis.units >= 0]] = True
        after = ~makes | (is_taken & ~takes & ~groups.read_whole)
        if np.array_equal(after, dead):
            return dead & ~_last_ones(groups, dead)
        dead = after


def _not_zero(groups: DependencyGroups, weights: Weights, kept: Kept) -> dict[str, NDArray[np.bool_]]:
    """For each tensor that has units True where a weight is not zero and makes no other unit than those `kept`."""
    places = {axis.tensor: weights[axis.tensor] != 0.0 for axis in groups.axes}
    for name, mask in unit_mask(groups, kept).items():
        places[name] &= mask
    return places


def _last_ones(groups: DependencyGroups, dead: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The first unit of each layer that would have none left."""
    spared = np.zeros(groups.count, np.bool_)
    for made in groups.made:
        if not kept_entries(made.units, ~dead | spared).any():
            spared[made.units[0]] = True
    return spared


def _any(groups: DependencyGroups, axis: Axis, places: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """For each unit True if one of its entries along an axis of a tensor has a place that is True."""
    others = tuple(number for number in range(places.ndim) if number != axis.axis)
    found = np.zeros(groups.count + 1, np.bool_)  # the last for what belongs to no unit
    np.logical_or.at(found, axis.units, places.any(axis=others))
    return found[:-1]


def _mask(
    groups: DependencyGroups, kept: Kept, roles: Collection[Role], kinds: Collection[TensorClass]
) -> dict[str, NDArray[np.bool_]]:
    specs = {spec.name: spec for spec in groups.table if spec.kind in kinds}
    mask: dict[str, NDArray[np.bool_]] = {}
    for axis in groups.axes:
        if axis.role in roles and axis.tensor in specs:
            shape = specs[axis.tensor].shape
            places = mask.setdefault(axis.tensor, np.ones(shape, np.bool_))
            places &= _along(kept_entries(axis.units, kept), axis.axis, len(shape))
    return mask


def _along(entries: NDArray[np.bool_], axis: int, rank: int) -> NDArray[np.bool_]:
    """`entries` `[size]` along an axis of a tensor of so many axes, all others of size 1."""
    return entries.reshape(*(1,) * axis, -1, *(1,) * (rank - axis - 1))
