"""Which units are removed, and how masks of single weights leave them without effect."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from fedprune.model.tensors import TensorClass, TensorTable
from fedprune.network.layers import (
    Activation,
    Dense,
    Function,
    UnitNormalization,
)
from fedprune.slimming import rules
from fedprune.slimming.groups import DependencyGroups, Kept, dependency_groups
from fedprune.slimming.selection import UnitAllocation, choose_units, unit_norms
from fedprune.slimming.slim import slim
from fedprune.slimming.unit_masks import dead_units, maskable
from tests.described import chain_of, table_of
from tests.drawn_networks import drawn_weights
from tests.slimmed import (
    activation,
    dense,
    groups_of,
)

# The choice


def two_layers(first: int = 8, second: int = 8) -> DependencyGroups:
    return groups_of(
        chain_of((5,), dense("a", first), activation("r", Function.RELU), dense("b", second), dense("out", 2))
    )


def kept_of(groups: DependencyGroups, kept: Kept) -> list[int]:
    slimmed = slim(groups, drawn_weights(groups.table, 1), kept)
    return [layer.units for layer in slimmed.network.layers if isinstance(layer, Dense)][:-1]


def test_units_are_kept_by_the_norm_of_all_that_makes_and_takes_them() -> None:
    groups = two_layers()
    weights = drawn_weights(groups.table, 1)
    expected = np.sqrt(
        np.square(weights["a/kernel"], dtype=np.float64).sum(axis=0)
        + np.square(weights["a/bias"], dtype=np.float64)
        + np.square(weights["b/kernel"], dtype=np.float64).sum(axis=1)
    )

    norms = unit_norms(groups, weights)
    kept = choose_units(groups, weights, 0.5, UnitAllocation.UNIFORM)

    np.testing.assert_allclose(norms[:8], expected)
    assert set(np.flatnonzero(kept[:8])) == set(np.argsort(expected)[4:])


def test_uniform_takes_the_same_fraction_of_each_layer_and_global_the_least_of_all() -> None:
    groups = two_layers()
    weights = drawn_weights(groups.table, 1)
    weights["a/kernel"][:, :6] *= np.float32(0.01)
    weights["b/kernel"][:6] *= np.float32(0.01)
    weights["a/bias"][:6] *= np.float32(0.01)

    uniform, everywhere = (choose_units(groups, weights, 0.5, allocation) for allocation in UnitAllocation)

    assert kept_of(groups, uniform) == [4, 4]
    assert kept_of(groups, everywhere) == [2, 6]


@pytest.mark.parametrize("allocation", UnitAllocation)
def test_layers_keep_a_minimum_and_multiples(allocation: UnitAllocation) -> None:
    groups = two_layers(8, 6)
    weights = drawn_weights(groups.table, 1)

    assert min(kept_of(groups, choose_units(groups, weights, 0.99, allocation))) == 1
    assert kept_of(groups, choose_units(groups, weights, 0.99, allocation, minimum=3)) == [3, 3]
    assert kept_of(groups, choose_units(groups, weights, 0.99, allocation, multiple=4)) == [4, 4]
    assert kept_of(groups, choose_units(groups, weights, 0.2, allocation, multiple=4))[1] in (4, 6)


@pytest.mark.parametrize("allocation", UnitAllocation)
def test_what_was_removed_stays_so(allocation: UnitAllocation) -> None:
    groups = two_layers()
    first = choose_units(groups, drawn_weights(groups.table, 1), 0.25, allocation)
    second = choose_units(groups, drawn_weights(groups.table, 2), 0.5, allocation, removed=~first)
    same = choose_units(groups, drawn_weights(groups.table, 2), 0.1, allocation, removed=~first)

    assert not second[~first].any()
    assert np.array_equal(same, first)
    assert kept_of(groups, second)[0] < 8


def test_nothing_is_chosen_for_no_fraction() -> None:
    groups = two_layers()

    assert choose_units(groups, drawn_weights(groups.table, 1), 0.0, UnitAllocation.UNIFORM).all()


# Masks of prunable weights


def test_units_that_only_prunable_kernels_take_can_be_masked_by_them() -> None:
    network = chain_of((5,), dense("a", 4), dense("b", 3), UnitNormalization(name="u"), dense("out", 2))
    specs = [
        msgspec.structs.replace(spec, kind=TensorClass.DENSE) if spec.name == "b/kernel" else spec
        for spec in table_of(network)
    ]

    assert maskable(dependency_groups(network, table_of(network))).tolist() == [True] * 4 + [False] * 3
    assert not maskable(dependency_groups(network, TensorTable(tuple(specs)))).any()


def test_units_that_only_dead_ones_take_are_dead_and_a_layer_keeps_one() -> None:
    groups = two_layers(4, 4)
    weights = drawn_weights(groups.table, 1)
    weights["b/kernel"][2, :] = 0.0
    weights["b/kernel"][1, 1:] = 0.0
    weights["out/kernel"][0] = 0.0

    dead = dead_units(groups, weights)
    weights["out/kernel"][:] = 0.0

    assert np.flatnonzero(dead).tolist() == [1, 2, 4]
    assert np.flatnonzero(~dead_units(groups, weights)).tolist() == [0, 4]


def test_units_before_a_layer_without_a_rule_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a new kind of layer costs nobody an export."""
    monkeypatch.delitem(rules._RULES, Activation)
    network = chain_of((4,), dense("a", 6), Activation(name="relu", function=Function.RELU), dense("b", 3))

    groups = dependency_groups(network, table_of(network))

    assert groups.count == 0
    assert groups.reasons["a"] == "layer 'relu' is of a kind whose units are not known"
