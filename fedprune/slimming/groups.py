"""The units of a network that can be removed, each with all that depends on it, and why others must stay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import TensorTable
from fedprune.network.description import Network
from fedprune.slimming.partition import Labels, Partition
from fedprune.slimming.rules import trace_layer
from fedprune.slimming.trace import Axis, Count, Fold, Trace

KEPT = -1
"""The number of entries that belong to no unit which can be removed."""

OUTPUT = "it is an output of the network"
"""The reason why units of outputs stay."""

Kept = NDArray[np.bool_]
"""For each unit `[units]`, True if it stays."""

_Part = TypeVar("_Part", Axis, Count, Fold)


@dataclass(frozen=True, eq=False)
class DependencyGroups:
    """The units of `network`, numbered from 0 to `count` - 1, and where they are. Entries of no unit have `KEPT`.

    Attributes:
        axes: the tensors' axes that have units.
        counts: the layers' attributes that count units.
        folds: the kernels that take what may be another constant than 0.
        made: the units that each layer makes.
        read_whole: bool `[count]`, True where something else than a kernel takes the unit: only where it is exactly
            zero it can be left out.
        reasons: for each layer of whose units some must stay, why.
    """

    network: Network
    table: TensorTable
    count: int
    axes: tuple[Axis, ...]
    counts: tuple[Count, ...]
    folds: tuple[Fold, ...]
    made: tuple[Count, ...]
    read_whole: NDArray[np.bool_]
    reasons: dict[str, str]

    @property
    def everything(self) -> Kept:
        """What keeps all units."""
        return np.ones(self.count, np.bool_)

    @cached_property
    def blocks(self) -> tuple[NDArray[np.int64], ...]:
        """The units of layers that make some of them together (by an addition, say), by number and rising."""
        partition = Partition()
        labels = partition.new(self.count)
        for made in self.made:
            units = np.unique(made.units[made.units != KEPT])
            partition.join(np.repeat(labels[units[:1]], len(units)), labels[units])
        classes = partition.classes(labels)
        return tuple(np.flatnonzero(classes == each) for each in dict.fromkeys(classes.tolist()))


def dependency_groups(network: Network, table: TensorTable) -> DependencyGroups:
    """Follow channels, units and heads through a network, which was checked against its `table`.

    A unit is what one filter, neuron, cell or head makes. All go together that are added to each other, are in one
    place of a grouped convolution's groups, or in one group of a group normalisation. A unit stays if a layer cannot
    do without it (a softmax, a layer normalisation, an output), if a tensor that makes or takes it is frozen, or if,
    masked, it becomes another constant than 0 where no bias can take that up, before zero padding above all.
    """
    trace = Trace(network, table)
    values = [trace.kept(shape, "it is joined with an input of the network") for shape in network.inputs]
    for layer, call in network.steps():
        values.append(trace_layer(trace, layer, [values[number] for number in call.inputs]))
    for number in network.outputs:
        trace.partition.pin(values[number].labels, OUTPUT)
    numbers = _numbers(trace)

    def numbered(parts: Iterable[_Part]) -> tuple[_Part, ...]:
        return tuple(replace(part, units=_units(trace, numbers, part.units)) for part in parts)

    read_whole = np.zeros(len(numbers), np.bool_)
    for labels in trace.read_whole:
        read_whole[_removable(_units(trace, numbers, labels))] = True
    made = numbered(Count(layer, attribute, labels) for (layer, attribute), labels in trace.made.items())
    return DependencyGroups(
        network=network,
        table=table,
        count=len(numbers),
        axes=numbered(trace.axes),
        counts=numbered(trace.counts),
        folds=numbered(trace.folds),
        made=made,
        read_whole=read_whole,
        reasons=_reasons(trace),
    )


def kept_entries(units: Labels, kept: Kept) -> NDArray[np.bool_]:
    """For entries of `units` True where they stay: where their unit does, and where they have none.

    Example:
        >>> kept_entries(np.array([1, KEPT, 0, 1]), np.array([True, False])).tolist()
        [False, True, True, False]
    """
    entries: NDArray[np.bool_] = np.append(kept, True)[units]
    return entries


def _numbers(trace: Trace) -> dict[int, int]:
    """A number for each class of labels that layers make and nothing pins, in the order of the network."""
    numbers: dict[int, int] = {}
    for labels in trace.made.values():
        for label in trace.partition.classes(labels).tolist():
            if trace.partition.reason(label) is None:
                numbers.setdefault(label, len(numbers))
    return numbers


def _units(trace: Trace, numbers: dict[int, int], labels: Labels) -> Labels:
    classes = trace.partition.classes(labels).tolist()
    return np.array([numbers.get(label, KEPT) for label in classes], np.int64)


def _removable(units: Labels) -> Labels:
    removable: Labels = units[units != KEPT]
    return removable


def _reasons(trace: Trace) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for (layer, _), labels in trace.made.items():
        found = (trace.partition.reason(label) for label in labels.tolist())
        if reason := next(filter(None, found), None):
            reasons.setdefault(layer, reason)
    return reasons
