"""Networks to remove units from, and what is left of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedprune.model.tensors import Array, Weights
from fedprune.network.description import Call, Network
from fedprune.network.layers import (
    Activation,
    AnyLayer,
    BatchNormalization,
    Convolution,
    Dense,
    Function,
)
from fedprune.pruning.masks import apply_mask
from fedprune.slimming.groups import DependencyGroups, Kept, dependency_groups
from fedprune.slimming.slim import Slimmed, slim
from fedprune.slimming.unit_masks import unit_mask
from fedprune.task.evaluation import InferenceGraph
from tests.described import table_of
from tests.drawn_networks import drawn_inputs, drawn_weights

TOLERANCE = 1e-4
"""Of the largest output; what is removed wrongly is off by a tenth and more."""


def answers(network: Network, weights: Weights) -> Array:
    graph = InferenceGraph(network, threads=1)
    graph.load(weights)
    return np.concatenate([outputs for (outputs,) in graph.predict([drawn_inputs(network, 16)])])


def assert_alike(network: Network, weights: Weights, slimmed: Slimmed) -> None:
    expected = answers(network, weights)
    found = answers(slimmed.network, slimmed.weights)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * float(np.abs(expected).max()))


def removed(groups: DependencyGroups, kept: Kept) -> Slimmed:
    """The network without units, which answers as it does with them masked."""
    weights = drawn_weights(groups.table, 1)
    slimmed = slim(groups, weights, kept)
    assert_alike(groups.network, apply_mask(weights, unit_mask(groups, kept)), slimmed)
    return slimmed


def groups_of(network: Network, frozen: tuple[str, ...] = ()) -> DependencyGroups:
    table = table_of(network, frozen)
    network.check(table)
    return dependency_groups(network, table)


def dense(name: str, units: int, **changes: Any) -> Dense:
    return Dense(name=name, units=units, kernel=f"{name}/kernel", **{"bias": f"{name}/bias"} | changes)


def convolution(name: str, filters: int, **changes: Any) -> Convolution:
    fields = {"size": (3, 3), "strides": (1, 1), "bias": f"{name}/bias"} | changes
    return Convolution(name=name, filters=filters, kernel=f"{name}/kernel", **fields)


def activation(name: str, function: Function) -> Activation:
    return Activation(name=name, function=function)


def batch_normalization(name: str, **changes: Any) -> BatchNormalization:
    fields = {"gamma": f"{name}/gamma", "beta": f"{name}/beta", "mean": f"{name}/mean", "variance": f"{name}/variance"}
    return BatchNormalization(name=name, epsilon=1e-3, momentum=0.9, unbiased=False, **fields | changes)


def network_of(shape: tuple[int, ...], *steps: tuple[AnyLayer, tuple[int, ...]]) -> Network:
    """Layers with the numbers of the values that they take; the last value is the output."""
    layers, calls = [layer for layer, _ in steps], [Call(number, inputs) for number, (_, inputs) in enumerate(steps)]
    return Network("net", (shape,), tuple(layers), tuple(calls), (len(steps),))


def without(groups: DependencyGroups, *gone: int) -> Kept:
    kept = groups.everything
    kept[list(gone)] = False
    return kept


def shapes(slimmed: Slimmed) -> dict[str, tuple[int, ...]]:
    return {spec.name: spec.shape for spec in slimmed.table}
