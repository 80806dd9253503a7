"""The cut of a network with a frozen base: where it is, that the parts make the whole, and when there is none."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
import numpy as np
import pytest

from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, TensorTable, Weights
from fedprune.network.augmentation import RandomFlip
from fedprune.network.description import Call, Network, Penalty
from fedprune.network.frontier import Parts, cut_at_frontier
from fedprune.network.layers import (
    Activation,
    Add,
    AnyLayer,
    Concatenate,
    Dense,
    Dropout,
    Function,
    GaussianNoise,
    GlobalPooling,
    Padding,
    Rescaling,
    Statistic,
    StepMask,
)
from fedprune.runtime.proven_head import draw_probe
from fedprune.task.evaluation import InferenceGraph
from tests.described import chain_of, convolution, normalization, table_of, weights_of

FIRST = convolution((3, 3), (1, 1))
POOL = GlobalPooling(name="pool", statistic=Statistic.MEAN)
BASE = {"c/kernel", "g", "m", "v"}


def dense(name: str, units: int = 4) -> Dense:
    return Dense(name=name, units=units, kernel=f"{name}/kernel", bias=f"{name}/bias")


def relu(name: str) -> Activation:
    return Activation(name=name, function=Function.RELU)


CHAIN = chain_of((6, 6, 2), FIRST, normalization(), relu("r1"), POOL, dense("hidden"), relu("r2"), dense("end"))


def cut(network: Network, frozen: Collection[str] = BASE) -> Parts | None:
    table = table_of(network, frozen)
    network.check(table)
    return cut_at_frontier(network, table)


def parts_of(network: Network, frozen: Collection[str] = BASE) -> Parts:
    parts = cut(network, frozen)
    assert parts is not None
    parts.base.check(parts.base_table)
    parts.head.check(parts.head_table)
    return parts


def answer(network: Network, weights: Weights, x: Array) -> Array:
    graph = InferenceGraph(network, threads=1)
    graph.load(weights)
    return np.concatenate([output for (output,) in graph.predict([x])])


def assert_parts_make(network: Network, parts: Parts, table: TensorTable) -> None:
    weights = weights_of(table)
    x = Keyed(1).uniform(5 * int(np.prod(network.inputs[0])), -1.0, 1.0).reshape(5, *network.inputs[0])

    found = answer(parts.head, weights, answer(parts.base, weights, x))

    expected = answer(network, weights, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()))


def names(network: Network) -> list[str]:
    return [layer.name for layer in network.layers]


def test_a_chain_is_cut_before_its_first_trained_layer() -> None:
    parts = parts_of(CHAIN)

    assert (names(parts.base), names(parts.head)) == (["c", "b", "r1", "pool"], ["hidden", "r2", "end"])
    assert {spec.name for spec in parts.base_table} == BASE
    assert {spec.name for spec in parts.head_table} == {"hidden/kernel", "hidden/bias", "end/kernel", "end/bias"}
    assert (parts.base.outputs, parts.head.inputs, parts.head.outputs) == ((4,), ((5,),), (3,))
    assert_parts_make(CHAIN, parts, table_of(CHAIN))


def test_a_head_may_have_frozen_layers() -> None:
    parts = parts_of(CHAIN, {*BASE, "end/kernel", "end/bias"})

    assert names(parts.head) == ["hidden", "r2", "end"]
    assert "end/kernel" in {spec.name for spec in parts.head_table}


def residual(*ends: int) -> Network:
    """A frozen convolution and one that is added to it, of which a head takes some: values 1, 2, 3 (the sum), 4."""
    second = convolution((3, 3), (1, 1))
    second = msgspec.structs.replace(second, name="c2", kernel="c2/kernel")
    layers: tuple[AnyLayer, ...] = (
        msgspec.structs.replace(FIRST, padding=Padding.SAME),
        msgspec.structs.replace(second, padding=Padding.SAME),
        Add(name="add"),
        relu("r1"),
        Concatenate(name="join", axis=2),
        POOL,
        dense("end"),
    )
    calls = ((0, (0,)), (1, (1,)), (2, (1, 2)), (3, (3,)), (4, ends), (5, (5,)), (6, (6,)))
    return Network("residual", ((6, 6, 5),), layers, tuple(Call(*call) for call in calls), (7,))


@pytest.mark.parametrize(
    ("network", "frozen", "base"),
    [
        (residual(4, 4), ("c/kernel", "c2/kernel"), ["c", "c2", "add", "r1", "join", "pool"]),
        (residual(4, 4), ("c/kernel",), ["c"]),  # both branches begin with the first convolution
        (residual(3, 4), ("c/kernel", "c2/kernel"), ["c", "c2", "add", "r1", "join", "pool"]),
    ],
)
def test_branches_are_cut_where_they_are_one(network: Network, frozen: tuple[str, ...], base: list[str]) -> None:
    parts = parts_of(network, frozen)

    assert names(parts.base) == base
    assert_parts_make(network, parts, table_of(network))


def with_layer(layer: AnyLayer, place: int) -> Network:
    layers = list(CHAIN.layers)
    layers.insert(place, layer)
    return chain_of(CHAIN.inputs[0], *layers)


@pytest.mark.parametrize(
    "noise", [Dropout(name="noise", rate=0.2), GaussianNoise(name="noise", deviation=0.1)], ids=lambda layer: layer.name
)
def test_what_draws_is_in_the_head(noise: AnyLayer) -> None:
    assert names(parts_of(with_layer(noise, 3)).base) == ["c", "b", "r1"]
    assert cut(with_layer(noise, 0)) is None


@pytest.mark.parametrize(
    ("network", "frozen"),
    [
        (CHAIN, ()),
        (CHAIN, ("end/kernel", "end/bias")),
        (with_layer(Rescaling(name="scale", scale=(2.0,), offset=(0.0,)), 0), ()),  # a base without a tensor
        (residual(4, 0), ("c/kernel",)),  # the input itself goes on
        (msgspec.structs.replace(CHAIN, augmentation=(RandomFlip(name="f", horizontal=True, vertical=True),)), BASE),
        (msgspec.structs.replace(CHAIN, penalties=(Penalty("c/kernel", l2=0.1),)), BASE),
    ],
)
def test_there_is_no_cut_where_activations_could_not_be_kept(network: Network, frozen: Collection[str]) -> None:
    assert cut(network, frozen) is None


def test_penalties_of_the_head_stay() -> None:
    parts = parts_of(msgspec.structs.replace(CHAIN, penalties=(Penalty("end/kernel", l2=0.1),)))

    assert [penalty.tensor for penalty in parts.head.penalties] == ["end/kernel"]


def test_the_probe_of_a_base_has_padding_where_a_mask_leaves_steps_out() -> None:
    base = Network(
        name="masked",
        inputs=((6, 2),),
        layers=(StepMask(name="mask", padding=-7.0), POOL),
        calls=(Call(0, (0,)), Call(1, (0, 1))),
        outputs=(2,),
    )
    (probe,) = draw_probe(base.inputs, base.vocabularies, base.paddings)
    padded = (probe == -7.0).all(axis=-1)

    assert padded.any()
    assert not padded.all(axis=1).any()
    assert answer(base, {}, probe) == pytest.approx(
        np.stack([example[~left_out].mean(axis=0) for example, left_out in zip(probe, padded, strict=True)]), abs=1e-5
    )


def test_a_network_whose_output_has_padded_steps_is_not_cut() -> None:
    """Which these are is asked of what goes in, and a head would not see it."""
    frozen = {"base/kernel", "base/bias"}
    chain = chain_of((6, 2), dense("base"), relu("r"), dense("end"))
    assert cut(chain, frozen) is not None

    masked = msgspec.structs.replace(
        chain,
        layers=(*chain.layers, StepMask(name="mask", padding=0.0)),
        calls=(*chain.calls, Call(3, (0,))),
        output_masks=(4,),
    )

    assert cut(masked, frozen) is None
