"""The description of a network is foreign data: what does not fit together is refused in a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from fedprune.errors import TaskError
from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable
from fedprune.network import layers as kinds
from fedprune.network.description import MAX_BYTES, Call, Network, Penalty, pack_network, parse_network
from fedprune.network.layers import Function, Padding, Statistic

LAYERS = (
    kinds.Convolution(name="conv", size=(3,), strides=(2,), filters=4, kernel="c/k", bias="c/b"),
    kinds.BatchNormalization(
        name="norm", epsilon=1e-3, momentum=0.9, unbiased=False, gamma="n/g", beta=None, mean="n/m", variance="n/v"
    ),
    kinds.GlobalPooling(name="mean", statistic=Statistic.MEAN),
    kinds.Dense(name="end", units=2, kernel="e/k"),
)
NETWORK = Network("net", ((9, 3),), LAYERS, tuple(Call(i, (i,)) for i in range(4)), (4,), (Penalty("e/k", l2=0.1),))


def spec(name: str, *shape: int, kind: TensorClass = TensorClass.DENSE) -> TensorSpec:
    return TensorSpec(name, shape, "float32", kind, name[0])


SPECS = (
    spec("c/k", 3, 3, 4, kind=TensorClass.PRUNABLE),
    spec("c/b", 4),
    spec("n/g", 4),
    spec("n/m", 4, kind=TensorClass.STATISTICS),
    spec("n/v", 4, kind=TensorClass.STATISTICS),
    spec("e/k", 4, 2, kind=TensorClass.PRUNABLE),
)


def with_layer(number: int, **changes: Any) -> Network:
    layers = list(LAYERS)
    layers[number] = msgspec.structs.replace(layers[number], **changes)
    return msgspec.structs.replace(NETWORK, layers=tuple(layers))


def with_calls(*calls: Call) -> Network:
    return msgspec.structs.replace(NETWORK, calls=calls, outputs=(len(calls),))


def test_a_description_travels_and_fits_its_table() -> None:
    NETWORK.check(TensorTable(SPECS))
    assert parse_network(pack_network(NETWORK)) == NETWORK
    assert NETWORK.shapes() == ((9, 3), (4, 4), (4, 4), (4,), (2,))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (with_calls(Call(0, (1,))), "layer 'conv' takes what comes later"),
        (with_calls(Call(7, (0,))), "layer 7 is called, of 4"),
        (with_calls(Call(0, (0,)), Call(2, (1,)), Call(3, (2,))), "one is never called"),
        (with_layer(1, name="conv"), "two layers have one name"),
        (with_layer(0, size=(3, 3)), r"windows of \[3, 3\] that move by \[2\]"),
        (with_layer(0, size=(10,)), "has windows of"),
        (with_layer(0, filters=5), "in the table, and"),
        (with_layer(0, bias="c/k"), "layer 'conv' holds one tensor twice"),
        (with_layer(3, kernel="c/k"), "layer 'end' holds tensor 'c/k', which has another shape or another layer"),
        (with_layer(3, kernel="other"), "tensor 'e/k' is .* in the table.* not there"),
        (with_layer(1, unbiased=True), "layer 'norm' has an unbiased variance, which is of images"),
        (
            msgspec.structs.replace(NETWORK, penalties=(Penalty("x"),)),
            "a penalty of 'x', which",
        ),
        (msgspec.structs.replace(NETWORK, outputs=(9,)), "an output is a value that nothing makes"),
        (msgspec.structs.replace(NETWORK, inputs=((2**24, 2**24),)), "larger than"),
    ],
)
def test_what_does_not_fit_together_is_refused(network: Network, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        network.check(TensorTable(SPECS))


@pytest.mark.parametrize(
    ("tensor", "kind", "said"),
    [
        ("n/m", TensorClass.DENSE, "tensor 'n/m' is a statistic, not dense"),
        ("c/b", TensorClass.STATISTICS, "tensor 'c/b' cannot be statistics"),
        ("c/b", TensorClass.FROZEN, "layer 'conv' is frozen in part"),
        ("c/b", TensorClass.INTEGER, "cannot be integer"),
    ],
)
def test_classes_of_tensors_must_be_those_of_their_layers(tensor: str, kind: TensorClass, said: str) -> None:
    table = (msgspec.structs.replace(row, kind=kind) if row.name == tensor else row for row in SPECS)
    with pytest.raises(TaskError, match=said):
        NETWORK.check(TensorTable(tuple(table)))


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (kinds.Add(name="odd"), ((3, 2), (3, 1))),
        (kinds.Add(name="odd"), ((3, 2),)),
        (kinds.Concatenate(name="odd", axis=1), ((3, 2), (4, 2))),
        (kinds.Concatenate(name="odd", axis=4), ((3, 2), (3, 2))),
        (kinds.GlobalPooling(name="odd", statistic=Statistic.MAX), ((2, 2, 2, 2),)),
        (kinds.GlobalPooling(name="odd", statistic=Statistic.MAX), ((2,),)),
        (kinds.Reshape(name="odd", shape=(5,)), ((2, 3),)),
        (kinds.Rescaling(name="odd", scale=(1.0, 2.0), offset=(0.0,)), ((4, 3),)),
        (kinds.ZeroPadding(name="odd", padding=((1, 1),)), ((4, 4, 2),)),
        (kinds.Activation(name="odd", function=Function.SOFTMAX), ((),)),
        (
            kinds.Pooling(name="odd", size=(2,), strides=(1,), padding=Padding.CAUSAL, statistic=Statistic.MAX),
            ((4, 2),),
        ),
        (kinds.Dense(name="odd", units=2, kernel="k"), ((),)),
    ],
    ids=str,
)
def test_a_layer_refuses_shapes_that_it_cannot_take(layer: kinds.AnyLayer, inputs: Any) -> None:
    with pytest.raises(TaskError, match="layer 'odd'"):
        layer.output(*inputs)


def _edited(edit: Callable[[dict[str, Any]], Any]) -> bytes:
    tree = msgspec.json.decode(pack_network(NETWORK))
    edit(tree)
    return msgspec.json.encode(tree)


@pytest.mark.parametrize(
    ("blob", "said"),
    [
        (b"", "network.json: "),
        (b"[" * 100_000, "network.json: "),
        (b" " * (MAX_BYTES + 1), "larger than"),
        (_edited(lambda tree: tree.update(version=2)), "version 2, this fedprune reads 1; upgrade"),
        (_edited(lambda tree: tree.update(more=1)), "unknown field `more`"),
        (_edited(lambda tree: tree["layers"][0].update(kind="lambda")), "Invalid value 'lambda'"),
        (_edited(lambda tree: tree["layers"][0].update(kind="a\nb\x1b[2J")), r"Invalid value 'a\?b\?\[2J'"),
        (_edited(lambda tree: tree["layers"][0].update(filters=2**40)), "filters"),
        (_edited(lambda tree: tree["layers"][1].update(epsilon=-1.0)), "epsilon"),
        (_edited(lambda tree: tree["calls"].append([-1, [0]])), "calls"),
    ],
)
def test_nonsense_is_refused_in_a_printable_line(blob: bytes, said: str) -> None:
    with pytest.raises(TaskError, match=said) as caught:
        parse_network(blob)
    assert str(caught.value).isprintable()
