"""Units removed from networks: what is left answers as the masked network does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedprune.network.description import Network
from fedprune.network.layers import (
    GRU,
    LSTM,
    Add,
    AnyLayer,
    Concatenate,
    DepthwiseConvolution,
    Function,
    GlobalPooling,
    LayerNormalization,
    Merge,
    MultiHeadAttention,
    Operation,
    Padding,
    Reshape,
    Statistic,
    ZeroPadding,
)
from fedprune.pruning.masks import apply_mask, full_mask
from fedprune.slimming.groups import DependencyGroups
from fedprune.slimming.selection import UnitAllocation, choose_units
from fedprune.slimming.slim import slim
from fedprune.slimming.unit_masks import dead_units, maskable, prunable_unit_mask, units_without
from tests.described import chain_of
from tests.drawn_networks import drawn_networks, drawn_weights
from tests.slimmed import (
    activation,
    assert_alike,
    batch_normalization,
    convolution,
    dense,
    groups_of,
    network_of,
    removed,
    shapes,
    without,
)

# Networks that nobody thought of


def check_drawn(network: Network, fraction: float, allocation: UnitAllocation) -> None:
    groups = groups_of(network)
    chosen_by = drawn_weights(groups.table, 2)

    removed(groups, choose_units(groups, chosen_by, fraction, allocation))

    kept = choose_units(groups, chosen_by, fraction, allocation, choosable=maskable(groups))
    mask = prunable_unit_mask(groups, kept)
    weights = apply_mask(drawn_weights(groups.table, 1), mask)
    dead = dead_units(groups, weights)
    assert units_without(groups, full_mask(groups.table) | mask)[~kept].all()
    assert dead[~kept].all()
    assert_alike(network, weights, slim(groups, weights, ~dead))


drawn = given(drawn_networks(), st.sampled_from([0.3, 0.6, 0.9]), st.sampled_from(UnitAllocation))
alike_each_time = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)


@settings(alike_each_time, max_examples=20)
@drawn
def test_a_slimmed_network_answers_as_the_masked_one(
    network: Network, fraction: float, allocation: UnitAllocation
) -> None:
    check_drawn(network, fraction, allocation)


@pytest.mark.slow
def test_200_slimmed_networks_of_all_kinds_of_layers_answer_as_the_masked_ones() -> None:
    kinds = set()

    @settings(alike_each_time, max_examples=200)
    @drawn
    def check(network: Network, fraction: float, allocation: UnitAllocation) -> None:
        kinds.update(type(layer) for layer in network.layers)
        check_drawn(network, fraction, allocation)

    check()
    assert kinds == set(AnyLayer.__args__)


# What goes together


def test_a_filter_goes_with_its_normalization_and_all_that_takes_it_behind_flatten() -> None:
    groups = groups_of(
        chain_of(
            (6, 6, 1),
            convolution("conv", 4, padding=Padding.SAME),
            batch_normalization("norm"),
            activation("relu", Function.RELU),
            DepthwiseConvolution(name="each", size=(3, 3), strides=(1, 1), multiplier=2, kernel="each/kernel"),
            Reshape(name="flat", shape=(4 * 4 * 8,)),
            dense("out", 3),
        )
    )

    slimmed = removed(groups, without(groups, 1, 3))

    assert groups.count == 4
    assert groups.reasons == {"out": "it is an output of the network"}
    assert shapes(slimmed) == {
        "conv/kernel": (3, 3, 1, 2),
        "conv/bias": (2,),
        "norm/gamma": (2,),
        "norm/beta": (2,),
        "norm/mean": (2,),
        "norm/variance": (2,),
        "each/kernel": (3, 3, 2, 2),
        "out/kernel": (4 * 4 * 4, 3),
        "out/bias": (3,),
    }


def test_what_is_added_goes_together_and_what_is_joined_side_by_side_goes_alone() -> None:
    added = groups_of(
        network_of(
            (5,), (dense("a", 4), (0,)), (dense("b", 4), (0,)), (Add(name="sum"), (1, 2)), (dense("out", 2), (3,))
        )
    )
    joined = groups_of(
        network_of(
            (5,),
            (dense("a", 4), (0,)),
            (dense("b", 3), (0,)),
            (Concatenate(name="both", axis=0), (1, 2)),
            (dense("out", 2), (3,)),
        )
    )

    assert (added.count, joined.count) == (4, 7)
    assert shapes(removed(added, without(added, 0)))["b/kernel"] == (5, 3)
    assert shapes(removed(joined, without(joined, 0, 5, 6)))["out/kernel"] == (4, 2)


def test_grouped_convolutions_lose_the_same_filters_of_each_group() -> None:
    groups = groups_of(
        chain_of(
            (6, 6, 2),
            convolution("first", 6),
            convolution("grouped", 4, groups=2),
            GlobalPooling(name="mean", statistic=Statistic.MEAN),
            dense("out", 2),
        )
    )

    slimmed = removed(groups, without(groups, 1, 4))

    assert groups.count == 3 + 2
    assert shapes(slimmed)["first/kernel"] == (3, 3, 2, 4)
    assert shapes(slimmed)["grouped/kernel"] == (3, 3, 2, 2)


@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_units_of_cells_go_from_all_gates(kind: Any) -> None:
    cell = kind(name="cell", units=4, kernel="cell/kernel", recurrent="cell/recurrent", bias="cell/bias")
    groups = groups_of(chain_of((5, 3), cell, dense("out", 2)))

    slimmed = removed(groups, without(groups, 0, 2))

    assert shapes(slimmed)["cell/kernel"] == (3, 2 * kind.gates)
    assert shapes(slimmed)["cell/recurrent"] == (2, 2 * kind.gates)


def attention(**changes: Any) -> MultiHeadAttention:
    names = ("query", "key", "value", "output")
    tensors = {f"{name}_{what}": f"{name}/{what}" for name in names for what in ("kernel", "bias")}
    return MultiHeadAttention(name="look", heads=3, key_size=2, value_size=4, units=5, **tensors | changes)


def test_heads_of_attention_are_units_and_so_are_its_outputs() -> None:
    groups = groups_of(
        network_of(
            (4, 3),
            (attention(), (0, 0)),
            (GlobalPooling(name="mean", statistic=Statistic.MEAN), (1,)),
            (dense("out", 2), (2,)),
        )
    )

    slimmed = removed(groups, without(groups, 0, 2, 4))

    assert groups.count == 3 + 5
    assert shapes(slimmed)["query/kernel"] == (3, 1, 2)
    assert shapes(slimmed)["output/kernel"] == (1, 4, 4)
    assert shapes(slimmed)["out/kernel"] == (4, 2)


# Constants, and what stays


def after_sigmoid(*layers: AnyLayer) -> DependencyGroups:
    return groups_of(chain_of((6, 6, 2), convolution("conv", 4), activation("sigmoid", Function.SIGMOID), *layers))


def test_what_a_sigmoid_makes_of_zero_is_folded_into_the_next_bias() -> None:
    groups = after_sigmoid(convolution("next", 3), Reshape(name="flat", shape=(12,)), dense("out", 2))

    slimmed = removed(groups, without(groups, 0, 1))

    weights = drawn_weights(groups.table, 1)
    folded = weights["next/bias"] + 0.5 * weights["next/kernel"][:, :, :2].sum(axis=(0, 1, 2))
    np.testing.assert_allclose(slimmed.weights["next/bias"], folded, rtol=1e-5)


def test_what_normalization_without_gamma_makes_of_zero_is_folded_too() -> None:
    layers = (dense("hidden", 4), batch_normalization("norm", gamma=None), dense("out", 2))
    groups = groups_of(chain_of((5,), *layers))

    removed(groups, without(groups, 1))

    assert groups.count == 4


def pooled(*layers: AnyLayer) -> tuple[AnyLayer, ...]:
    return (*layers, GlobalPooling(name="mean", statistic=Statistic.MEAN), dense("out", 2))


STAYING: dict[str, tuple[Callable[[], DependencyGroups], str]] = {
    "a constant before padding": (
        lambda: after_sigmoid(*pooled(convolution("next", 3, padding=Padding.SAME))),
        "layer 'next' gets another number than 0 from it once it is masked, and zeros around it",
    ),
    "a constant before zeros": (
        lambda: after_sigmoid(*pooled(ZeroPadding(name="pad", padding=((1, 1), (1, 1))))),
        "layer 'pad' gets another number than 0 from it once it is masked, and puts zeros around it",
    ),
    "a constant without a bias": (
        lambda: after_sigmoid(*pooled(convolution("next", 3, bias=None))),
        "layer 'next' gets another number than 0 from it once it is masked, and has no bias that it could be folded",
    ),
    "layer normalization": (
        lambda: groups_of(
            chain_of(
                (5,),
                dense("conv", 4),
                LayerNormalization(name="ln", axes=1, epsilon=1e-3, gamma=None, beta=None),
                dense("out", 2),
            )
        ),
        "layer 'ln' normalises each example over all of its channels",
    ),
    "softmax": (
        lambda: groups_of(chain_of((5,), dense("conv", 4), activation("soft", Function.SOFTMAX), dense("out", 2))),
        "layer 'soft' is a softmax, in which zeros count too",
    ),
    "an input": (
        lambda: groups_of(
            network_of((4,), (dense("conv", 4), (0,)), (Add(name="sum"), (0, 1)), (dense("out", 2), (2,)))
        ),
        "it is joined with an input of the network",
    ),
    "a frozen layer": (
        lambda: groups_of(chain_of((5,), dense("conv", 4), dense("out", 2)), frozen=("out/kernel", "out/bias")),
        "layer 'out' is frozen",
    ),
}


@pytest.mark.parametrize(("make", "reason"), STAYING.values(), ids=STAYING)
def test_what_cannot_go_exactly_stays_and_it_is_said_why(make: Callable[[], DependencyGroups], reason: str) -> None:
    groups = make()

    assert groups.reasons["conv"].startswith(reason)
    assert all((axis.units == -1).all() for axis in groups.axes if axis.tensor == "conv/kernel")


def test_zeros_after_relu_may_be_padded() -> None:
    layers = (convolution("conv", 4), activation("relu", Function.RELU), convolution("next", 3, padding=Padding.SAME))
    groups = groups_of(chain_of((6, 6, 2), *pooled(*layers)))

    assert groups.count == 4 + 3
    removed(groups, without(groups, 0, 5))


def test_a_channel_that_multiplies_all_others_stays() -> None:
    groups = groups_of(
        network_of(
            (5, 4),
            (dense("many", 4), (0,)),
            (dense("one", 1), (0,)),
            (Merge(name="times", operation=Operation.MULTIPLY), (1, 2)),
            (Reshape(name="flat", shape=(20,)), (3,)),
            (dense("out", 2), (4,)),
        )
    )

    assert groups.count == 4
    removed(groups, without(groups, 3))


def test_a_layer_keeps_at_least_one_unit() -> None:
    groups = groups_of(chain_of((5,), dense("a", 3), dense("out", 2)))

    with pytest.raises(ValueError, match="layer 'a' would have none of its units left"):
        slim(groups, drawn_weights(groups.table, 1), ~groups.everything)


# Arrays beside the weights


def test_slots_and_masks_are_carried_like_the_weights() -> None:
    groups = groups_of(chain_of((6, 6, 2), convolution("conv", 4), Reshape(name="flat", shape=(64,)), dense("out", 2)))
    weights = drawn_weights(groups.table, 1)
    slimmed = slim(groups, weights, without(groups, 0, 3))

    for spec in slimmed.table:
        assert slimmed.carry(spec.name, weights[spec.name] > 0).shape == spec.shape
        np.testing.assert_array_equal(slimmed.carry(spec.name, weights[spec.name]), slimmed.weights[spec.name])
    np.testing.assert_array_equal(slimmed.carry("conv/bias", np.arange(4)), [1, 2])
