"""Descriptions of networks: the shapes that layers make, and forged descriptions, which are refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedprune.errors import TaskError
from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable
from fedprune.network.description import (
    MAX_BYTES,
    MAX_CALLS,
    MAX_RANK,
    Call,
    Network,
    Penalty,
    pack_network,
    parse_network,
)
from fedprune.network.layers import (
    GRU,
    LSTM,
    MAX_SIZE,
    Activation,
    Add,
    AnyLayer,
    BatchNormalization,
    Concatenate,
    Convolution,
    Cropping,
    Dense,
    DepthwiseConvolution,
    Dot,
    Dropout,
    Embedding,
    Function,
    GaussianNoise,
    GlobalPooling,
    GroupNormalization,
    LayerError,
    LayerNormalization,
    Merge,
    MultiHeadAttention,
    Operation,
    Padding,
    Permute,
    Pooling,
    Recurrent,
    Rescaling,
    Reshape,
    Reversal,
    Shape,
    SimpleRNN,
    Statistic,
    TransposedConvolution,
    UnitNormalization,
    Upsampling,
    ZeroPadding,
)

MEAN, MAX = Statistic.MEAN, Statistic.MAX
SAME, CAUSAL = Padding.SAME, Padding.CAUSAL


def dense(units: int = 4, **changes: Any) -> Dense:
    return Dense(name="d", units=units, kernel="d/kernel", **changes)


def convolution(size: Shape, strides: Shape, **changes: Any) -> Convolution:
    return Convolution(name="c", size=size, strides=strides, filters=5, kernel="c/kernel", **changes)


def depthwise(size: Shape, strides: Shape, **changes: Any) -> DepthwiseConvolution:
    return DepthwiseConvolution(name="c", size=size, strides=strides, kernel="c/kernel", **changes)


def pooling(size: Shape, strides: Shape, **changes: Any) -> Pooling:
    return Pooling(name="p", size=size, strides=strides, statistic=MAX, **changes)


def normalization(**changes: Any) -> BatchNormalization:
    fields: dict[str, Any] = {"epsilon": 1e-3, "momentum": 0.9, "unbiased": False, "gamma": "g", "beta": None}
    return BatchNormalization(name="b", mean="m", variance="v", **fields | changes)


def transposed(size: tuple[int, ...], strides: tuple[int, ...], **changes: Any) -> TransposedConvolution:
    return TransposedConvolution(name="c", size=size, strides=strides, filters=5, kernel="c/kernel", **changes)


def layer_normalization(axes: int) -> LayerNormalization:
    return LayerNormalization(name="n", axes=axes, epsilon=1e-3, gamma="g", beta="b")


def group_normalization(groups: int) -> GroupNormalization:
    return GroupNormalization(name="n", groups=groups, epsilon=1e-3, gamma="g", beta=None)


def attention(**changes: Any) -> MultiHeadAttention:
    sizes: dict[str, Any] = {"heads": 2, "key_size": 3, "value_size": 4, "units": 7}
    kernels = {"query_kernel": "q", "key_kernel": "k", "value_kernel": "v", "output_kernel": "o"}
    return MultiHeadAttention(name="a", **sizes, **kernels, **changes)


def cell(kind: type[Recurrent], **changes: Any) -> Any:
    return kind(name="r", units=4, kernel="r/kernel", recurrent="r/recurrent", **changes)


def embedding(vocabulary: int = 9) -> Embedding:
    return Embedding(name="e", vocabulary=vocabulary, units=4, table="e/table")


SHAPES: dict[str, tuple[AnyLayer, tuple[Shape, ...], Shape, dict[str, Shape]]] = {
    "dense": (dense(bias="d/bias"), ((3,),), (4,), {"d/kernel": (3, 4), "d/bias": (4,)}),
    "dense over time": (dense(), ((6, 3),), (6, 4), {"d/kernel": (3, 4)}),
    "convolution": (convolution((3, 2), (2, 1)), ((7, 9, 2),), (3, 8, 5), {"c/kernel": (3, 2, 2, 5)}),
    "convolution, same": (
        convolution((3, 2), (2, 4), padding=SAME, bias="c/bias"),
        ((7, 9, 2),),
        (4, 3, 5),
        {"c/kernel": (3, 2, 2, 5), "c/bias": (5,)},
    ),
    "convolution of a series": (convolution((3,), (2,)), ((8, 2),), (3, 5), {"c/kernel": (3, 2, 5)}),
    "causal": (convolution((3,), (2,), padding=CAUSAL), ((9, 2),), (5, 5), {"c/kernel": (3, 2, 5)}),
    "larger than what it sees": (convolution((9,), (1,), padding=SAME), ((4, 2),), (4, 5), {"c/kernel": (9, 2, 5)}),
    "depthwise": (
        depthwise((2, 2), (1, 1), multiplier=3, bias="c/bias"),
        ((4, 5, 2),),
        (3, 4, 6),
        {"c/kernel": (2, 2, 2, 3), "c/bias": (6,)},
    ),
    "pooling": (pooling((2, 2), (2, 2)), ((5, 4, 3),), (2, 2, 3), {}),
    "pooling with gaps": (pooling((2,), (3,)), ((8, 3),), (3, 3), {}),
    "global pooling": (GlobalPooling(name="p", statistic=MEAN), ((5, 4, 3),), (3,), {}),
    "global pooling that keeps axes": (
        GlobalPooling(name="p", statistic=MAX, keep_axes=True),
        ((5, 3),),
        (1, 3),
        {},
    ),
    "normalization": (normalization(), ((6, 5),), (6, 5), {"g": (5,), "m": (5,), "v": (5,)}),
    "reshape": (Reshape(name="r", shape=(2, 6)), ((3, 4),), (2, 6), {}),
    "flatten": (Reshape(name="r", shape=(12,)), ((3, 4),), (12,), {}),
    "simple RNN": (cell(SimpleRNN), ((6, 3),), (4,), {"r/kernel": (3, 4), "r/recurrent": (4, 4)}),
    "LSTM": (
        cell(LSTM, sequences=True, bias="r/bias"),
        ((6, 3),),
        (6, 4),
        {"r/kernel": (3, 16), "r/recurrent": (4, 16), "r/bias": (16,)},
    ),
    "GRU": (
        cell(GRU, bias="r/bias", backwards=True),
        ((6, 3),),
        (4,),
        {"r/kernel": (3, 12), "r/recurrent": (4, 12), "r/bias": (2, 12)},
    ),
    "GRU that resets before": (
        cell(GRU, bias="r/bias", reset_after=False),
        ((6, 3),),
        (4,),
        {"r/kernel": (3, 12), "r/recurrent": (4, 12), "r/bias": (12,)},
    ),
    "reversal": (Reversal(name="r"), ((6, 3),), (6, 3), {}),
    "embedding": (embedding(), ((6,),), (6, 4), {"e/table": (9, 4)}),
    "zero padding": (ZeroPadding(name="z", padding=((1, 2), (0, 3))), ((4, 4, 2),), (7, 7, 2), {}),
    "rescaling": (Rescaling(name="s", scale=(0.5,), offset=(1.0, 2.0)), ((3, 2),), (3, 2), {}),
    "dropout": (Dropout(name="o", rate=0.5), ((3, 2),), (3, 2), {}),
    "softmax": (Activation(name="a", function=Function.SOFTMAX), ((3, 2),), (3, 2), {}),
    "elu": (Activation(name="a", function=Function.ELU, slope=1.5), ((3, 2),), (3, 2), {}),
    "add": (Add(name="a"), ((3, 2), (3, 2), (3, 2)), (3, 2), {}),
    "product, repeated": (
        Merge(name="m", operation=Operation.MULTIPLY),
        ((1, 1, 2), (4, 3, 2), (4, 1, 1)),
        (4, 3, 2),
        {},
    ),
    "dot of rows": (Dot(name="d", axes=(0, 0)), ((3,), (3,)), (1,), {}),
    "dot of matrices": (Dot(name="d", axes=(0, 1)), ((3, 4), (5, 3)), (4, 5), {}),
    "layer normalization": (layer_normalization(2), ((6, 5),), (6, 5), {"g": (6, 5), "b": (6, 5)}),
    "group normalization": (group_normalization(3), ((4, 6),), (4, 6), {"g": (6,)}),
    "unit normalization": (UnitNormalization(name="u"), ((4, 6),), (4, 6), {}),
    "gaussian noise": (GaussianNoise(name="n", deviation=0.1), ((4,),), (4,), {}),
    "whole channels": (Dropout(name="o", rate=0.5, whole_channels=True), ((3, 2),), (3, 2), {}),
    "cropping": (Cropping(name="c", cropping=((1, 0), (2, 1))), ((4, 4, 2),), (3, 1, 2), {}),
    "upsampling": (Upsampling(name="u", size=(2, 3)), ((4, 5, 2),), (8, 15, 2), {}),
    "permute": (Permute(name="p", axes=(2, 0, 1)), ((4, 5, 6),), (6, 4, 5), {}),
    "dilated": (convolution((3, 2), (1, 1), dilation=(2, 1)), ((7, 9, 2),), (3, 8, 5), {"c/kernel": (3, 2, 2, 5)}),
    "groups": (convolution((3,), (1,), groups=5), ((7, 10),), (5, 5), {"c/kernel": (3, 2, 5)}),
    "transposed": (
        transposed((3, 2), (2, 3), bias="c/bias"),
        ((4, 5, 2),),
        (9, 15, 5),
        {"c/kernel": (3, 2, 5, 2), "c/bias": (5,)},
    ),
    "transposed, same": (transposed((3,), (2,), padding=SAME), ((4, 2),), (8, 5), {"c/kernel": (3, 5, 2)}),
    "attention": (
        attention(),
        ((6, 5), (4, 3)),
        (6, 7),
        {"q": (5, 2, 3), "k": (3, 2, 3), "v": (3, 2, 4), "o": (2, 4, 7)},
    ),
    "attention of keys": (
        attention(query_bias="qb", key_bias="kb", value_bias="vb", output_bias="ob"),
        ((6, 5), (4, 3), (4, 2)),
        (6, 7),
        {"q": (5, 2, 3), "k": (2, 2, 3), "v": (3, 2, 4), "o": (2, 4, 7)}
        | {"qb": (2, 3), "kb": (2, 3), "vb": (2, 4), "ob": (7,)},
    ),
    "concatenate": (Concatenate(name="j", axis=1), ((3, 2), (3, 5)), (3, 7), {}),
    "concatenate in front": (Concatenate(name="j", axis=0), ((3, 2), (1, 2)), (4, 2), {}),
}


@pytest.mark.parametrize(("layer", "inputs", "output", "tensors"), SHAPES.values(), ids=SHAPES.keys())
def test_a_layer_tells_its_output_and_its_tensors(
    layer: AnyLayer, inputs: tuple[Shape, ...], output: Shape, tensors: dict[str, Shape]
) -> None:
    assert layer.output(*inputs) == output
    assert layer.tensors(*inputs) == tensors


def test_every_kind_of_layer_has_a_case() -> None:
    assert {type(layer) for layer, *_ in SHAPES.values()} == set(AnyLayer.__args__)


MISPLACED: dict[str, tuple[AnyLayer, tuple[Shape, ...], str]] = {
    "a cell over images": (cell(LSTM), ((6, 3, 2),), r"goes through \[steps, inputs\], not the shape \[6, 3, 2\]"),
    "a reversal of a number": (Reversal(name="r"), ((),), "reverses steps, not single numbers"),
    "dense of a number": (dense(), ((),), "takes rows, not single numbers"),
    "dense of two": (dense(), ((3,), (3,)), "takes 1 inputs, not 2"),
    "convolution of rows": (convolution((3, 3), (1, 1)), ((9,),), r"takes 3 axes, not the shape \[9\]"),
    "convolution of what is smaller": (convolution((3, 3), (1, 1)), ((2, 9, 1),), r"windows of \[3, 3\] in a shape"),
    "one stride for two axes": (convolution((3, 3), (1,)), ((9, 9, 1),), r"windows of \[3, 3\] that move by \[1\]"),
    "absurd windows": (convolution((64, 64), (1, 1), padding=SAME), ((9, 9, 1),), r"windows of \[64, 64\]"),
    "causal images": (convolution((3, 3), (1, 1), padding=CAUSAL), ((9, 9, 1),), "causal padding, which only"),
    "causal pooling": (pooling((3,), (1,), padding=CAUSAL), ((9, 1),), "which has no causal padding"),
    "global pooling of rows": (GlobalPooling(name="p", statistic=MEAN), ((9,),), r"not the shape \[9\]"),
    "normalization of a number": (normalization(), ((),), "takes channels, not single numbers"),
    "unbiased rows": (normalization(unbiased=True), ((9,),), "has an unbiased variance, which is of images"),
    "reshape": (Reshape(name="r", shape=(5,)), ((2, 3),), r"makes the shape \[5\] of \[2, 3\]"),
    "padding of rows": (ZeroPadding(name="z", padding=((1, 1),)), ((9,),), r"pads 1 axes of the shape \[9\]"),
    "rescaling": (Rescaling(name="s", scale=(1.0, 2.0), offset=(0.0,)), ((3,),), "has numbers for other channels"),
    "softmax of a number": (Activation(name="a", function=Function.SOFTMAX), ((),), "takes rows, not single"),
    "a slope of tanh": (Activation(name="a", function=Function.TANH, slope=0.1), ((3,),), "which only elu, leaky_relu"),
    "sum of one": (Add(name="a"), ((3,),), r"adds inputs of one shape, not \[\[3\]\]"),
    "sum of two shapes": (Add(name="a"), ((3,), (1,)), r"adds inputs of one shape"),
    "product of one": (Merge(name="m", operation=Operation.MAXIMUM), ((3,),), "joins inputs of one shape"),
    "product of other shapes": (Merge(name="m", operation=Operation.MINIMUM), ((3,), (2,)), "joins inputs of one"),
    "product of other ranks": (Merge(name="m", operation=Operation.MINIMUM), ((3,), (2, 3)), "joins inputs of one"),
    "product with too many axes": (
        Merge(name="m", operation=Operation.MULTIPLY),
        ((1, 2, 2, 2), (2, 2, 2, 2)),
        "repeats axes of shapes that have more than 3",
    ),
    "dot of images": (Dot(name="d", axes=(0, 0)), ((3, 3, 3), (3,)), "takes rows or matrices"),
    "dot along no axis": (Dot(name="d", axes=(1, 0)), ((3,), (3,)), "takes rows or matrices"),
    "dot of other sizes": (Dot(name="d", axes=(0, 0)), ((3,), (4,)), "sums over axes of one size"),
    "normalization over more axes": (layer_normalization(3), ((6, 5),), "normalises over 3 axes"),
    "groups that do not divide": (group_normalization(4), ((6,),), "4 groups of channels, which do not divide"),
    "norm of a number": (UnitNormalization(name="u"), ((),), "takes rows"),
    "whole channels of rows": (Dropout(name="o", rate=0.5, whole_channels=True), ((3,),), "takes places and channels"),
    "cropping of everything": (Cropping(name="c", cropping=((2, 1),)), ((3, 2),), "crops"),
    "upsampling of rows": (Upsampling(name="u", size=(2,)), ((3,),), "takes 2 axes"),
    "an order of other axes": (Permute(name="p", axes=(0, 0)), ((3, 2),), "puts axes"),
    "strides and dilation": (convolution((3,), (2,), dilation=(2,)), ((9, 2),), "one of which must be 1"),
    "a dilation of other axes": (convolution((3,), (1,), dilation=(2, 2)), ((9, 2),), "has a dilation"),
    "absurd dilation": (convolution((9,), (1,), dilation=(2**16,), padding=SAME), ((9, 2),), "beyond 65536"),
    "windows that reach too far": (convolution((3,), (1,), dilation=(5,)), ((9, 2),), r"windows of \[11\] in"),
    "groups of odd channels": (
        convolution((3,), (1,), groups=5),
        ((9, 3),),
        "5 groups, which do not divide 3",
    ),
    "causal transposed": (transposed((3,), (1,), padding=CAUSAL), ((9, 1),), "which has no causal padding"),
    "transposed of rows": (transposed((3,), (1,)), ((9,),), "takes 2 axes"),
    "attention of rows": (attention(), ((5,), (5,)), "takes places and channels"),
    "attention of one": (attention(), ((6, 5),), "takes 3 inputs, not 1"),
    "attention of fewer keys": (attention(), ((6, 5), (4, 5), (3, 5)), "keys for all values"),
    "attention of too many places": (attention(), ((2**12, 5), (2**12, 5)), "takes more than 16777216"),
    "attention with a bias": (attention(key_bias="kb"), ((6, 5), (6, 5)), "has some biases, and not all"),
    "one side by side": (Concatenate(name="j", axis=0), ((3,),), "joins inputs that differ along axis 0 alone"),
    "side by side along no axis": (Concatenate(name="j", axis=1), ((3,), (3,)), "joins inputs"),
    "side by side of other shapes": (Concatenate(name="j", axis=0), ((3, 2), (3, 1)), "joins inputs"),
}


@pytest.mark.parametrize(("layer", "inputs", "reason"), MISPLACED.values(), ids=MISPLACED.keys())
def test_a_layer_refuses_what_it_cannot_take(layer: AnyLayer, inputs: tuple[Shape, ...], reason: str) -> None:
    with pytest.raises(LayerError, match=f"layer '{layer.name}' .*{reason}") as caught:
        layer.output(*inputs)
    assert "\n" not in str(caught.value)


# A whole network

NETWORK = Network(
    name="small",
    inputs=((6, 5),),
    layers=(
        convolution((3,), (1,)),
        normalization(),
        Reshape(name="r", shape=(20,)),
        dense(bias="d/bias"),
    ),
    calls=(Call(0, (0,)), Call(1, (1,)), Call(2, (2,)), Call(3, (3,))),
    outputs=(4,),
    penalties=(Penalty("d/kernel", l2=0.1),),
)


def spec(name: str, shape: Shape, kind: TensorClass, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, shape, dtype, kind, name.partition("/")[0])


ROWS = (
    spec("c/kernel", (3, 5, 5), TensorClass.PRUNABLE),
    spec("g", (5,), TensorClass.DENSE),
    spec("m", (5,), TensorClass.STATISTICS),
    spec("v", (5,), TensorClass.STATISTICS),
    spec("d/kernel", (20, 4), TensorClass.PRUNABLE),
    spec("d/bias", (4,), TensorClass.DENSE),
)


def changed(**changes: Any) -> Network:
    return msgspec.structs.replace(NETWORK, **changes)


def test_what_was_packed_is_parsed_and_fits() -> None:
    network = parse_network(pack_network(NETWORK))

    network.check(TensorTable(ROWS))

    assert network == NETWORK
    assert network.shapes() == ((6, 5), (4, 5), (4, 5), (20,), (4,))


def test_a_layer_may_be_called_twice_on_one_shape() -> None:
    twice = Network(
        "twice", ((5,),), (dense(5), dense(3, bias=None)), (Call(0, (0,)), Call(0, (1,)), Call(1, (2,))), (3,)
    )
    layers = (twice.layers[0], msgspec.structs.replace(twice.layers[1], name="e", kernel="e/kernel"))
    table = TensorTable(
        (spec("d/kernel", (5, 5), TensorClass.PRUNABLE), spec("e/kernel", (5, 3), TensorClass.PRUNABLE))
    )
    msgspec.structs.replace(twice, layers=layers).check(table)


FORGED: dict[str, tuple[Network, str]] = {
    "a cycle": (changed(calls=(Call(0, (1,)), *NETWORK.calls[1:])), "layer 'c' takes what comes later"),
    "its own output": (changed(calls=(*NETWORK.calls[:3], Call(3, (4,)))), "layer 'd' takes what comes later"),
    "no such layer": (changed(calls=(Call(9, (0,)), *NETWORK.calls[1:])), "layer 9 is called, of 4"),
    "no such output": (changed(outputs=(5,)), "an output is a value that nothing makes"),
    "two of one name": (
        changed(layers=(*NETWORK.layers[:3], msgspec.structs.replace(dense(bias="d/bias"), name="c"))),
        "two layers have one name, or one is never called",
    ),
    "never called": (changed(layers=(*NETWORK.layers, Dropout(name="o", rate=0.1))), "one is never called"),
    "a tensor of two layers": (
        changed(layers=(*NETWORK.layers[:3], dense(bias="g"))),
        "layer 'd' holds tensor 'g', which has another shape or another layer elsewhere",
    ),
    "a layer on two shapes": (
        Network("two", ((5,),), (dense(4),), (Call(0, (0,)), Call(0, (1,))), (2,)),
        "layer 'd' holds tensor 'd/kernel', which has another shape",
    ),
    "a tensor that is not in the table": (
        changed(layers=(*NETWORK.layers[:3], dense(bias="d/other"))),
        r"tensor 'd/bias' is \[4\] in the table, and not there in the layers",
    ),
    "another size": (
        changed(layers=(*NETWORK.layers[:3], dense(3, bias="d/bias"))),
        r"tensor 'd/bias' is \[4\] in the table, and \[3\] in the layers",
    ),
    "a penalty of nothing": (changed(penalties=(Penalty("x"),)), "a penalty of 'x', which has another or is no weight"),
    "a value that is too large": (
        Network("large", ((2**12, 2**12),), (ZeroPadding(name="z", padding=((0, 1),)),), (Call(0, (0,)),), (1,)),
        rf"layer 'z' makes the shape \[4097, 4096\], larger than {MAX_SIZE} scalars or {MAX_RANK} axes",
    ),
    "values that are too large together": (
        Network(
            "wide",
            ((2**12, 2**12),),
            tuple(Activation(name=f"a{number}", function=Function.RELU) for number in range(16)),
            tuple(Call(number, (number,)) for number in range(16)),
            (16,),
        ),
        "more than 268435456 scalars an example; make it smaller",
    ),
}


@pytest.mark.parametrize(("network", "reason"), FORGED.values(), ids=FORGED.keys())
def test_a_forged_network_is_refused_in_one_line(network: Network, reason: str) -> None:
    with pytest.raises(TaskError, match=reason) as caught:
        network.check(TensorTable(ROWS))
    assert "\n" not in str(caught.value)


KINDS: dict[str, tuple[dict[str, TensorClass], str]] = {
    "integers": ({"d/bias": TensorClass.INTEGER}, "tensor 'd/bias' cannot be integer"),
    "statistics that nothing moves": ({"d/bias": TensorClass.STATISTICS}, "tensor 'd/bias' cannot be statistics"),
    "statistics that are trained": ({"m": TensorClass.DENSE}, "tensor 'm' is a statistic, not dense"),
    "half frozen": ({"d/bias": TensorClass.FROZEN}, "layer 'd' is frozen in part; freeze the whole layer, or none"),
    "a frozen mean": ({"m": TensorClass.FROZEN}, "layer 'b' is frozen in part"),
}


@pytest.mark.parametrize(("kinds", "reason"), KINDS.values(), ids=KINDS.keys())
def test_tensors_of_another_class_than_their_layers_are_refused(kinds: dict[str, TensorClass], reason: str) -> None:
    rows = tuple(msgspec.structs.replace(row, kind=kinds.get(row.name, row.kind)) for row in ROWS)
    with pytest.raises(TaskError, match=reason):
        NETWORK.check(TensorTable(rows))


def test_a_frozen_layer_keeps_its_statistics() -> None:
    kinds = dict.fromkeys("gmv", TensorClass.FROZEN)
    rows = tuple(msgspec.structs.replace(row, kind=kinds.get(row.name, row.kind)) for row in ROWS)
    NETWORK.check(TensorTable(rows))


# As JSON

Change = Callable[[dict[str, Any]], object]


def layer(number: int, **changes: Any) -> Change:
    return lambda network: network["layers"][number].update(changes)


UNREADABLE: dict[str, Change] = {
    "a kind that nobody knows": layer(0, kind="lambda"),
    "no kind": lambda network: network["layers"][0].pop("kind"),
    "an attribute that nobody knows": layer(0, code="import os"),
    "a name too long": layer(0, name="x" * 201),
    "no name": layer(0, name=""),
    "too many filters": layer(0, filters=2**16 + 1),
    "no filters": layer(0, filters=0),
    "filters that are no number": layer(0, filters="many"),
    "half a filter": layer(0, filters=1.5),
    "three axes": layer(0, size=[3, 3, 3]),
    "no axes": layer(0, size=[]),
    "negative strides": layer(0, strides=[-1]),
    "another padding": layer(0, padding="reflect"),
    "a negative epsilon": layer(1, epsilon=-1.0),
    "a momentum above 1": layer(1, momentum=1.5),
    "no mean": layer(1, mean=None),
    "an empty axis": layer(2, shape=[0]),
    "six axes": layer(2, shape=[1, 1, 1, 1, 1, 20]),
    "a call without inputs": lambda network: network["calls"].__setitem__(0, [0, []]),
    "a negative value": lambda network: network["calls"].__setitem__(0, [0, [-1]]),
    "an absurd value": lambda network: network["calls"].__setitem__(0, [0, [2**40]]),
    "a call with more": lambda network: network["calls"].__setitem__(0, [0, [0], {"training": True}]),
    "two inputs": lambda network: network.update(inputs=[[6, 5], [6, 5]]),
    "an open input": lambda network: network.update(inputs=[[None, 5]]),
    "an absurd input": lambda network: network.update(inputs=[[2**40]]),
    "two outputs": lambda network: network.update(outputs=[4, 4]),
    "no output": lambda network: network.update(outputs=[]),
    "a negative penalty": lambda network: network.update(penalties=[{"tensor": "g", "l2": -1.0}]),
    "a field that nobody knows": lambda network: network.update(colour="red"),
    "too many calls": lambda network: network.update(calls=[[0, [0]]] * (MAX_CALLS + 1)),
    "another version": lambda network: network.update(version=2),
}


@pytest.mark.parametrize("change", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_json_that_is_no_description_is_refused_in_one_line(change: Change) -> None:
    network = msgspec.json.decode(pack_network(NETWORK))
    change(network)

    with pytest.raises(
        TaskError, match=r"network\.json: .*; (build the task with this version of fedprune|upgrade it)"
    ) as caught:
        parse_network(msgspec.json.encode(network))

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b" " * MAX_BYTES + pack_network(NETWORK)])
def test_bytes_that_are_no_description_are_refused(text: bytes) -> None:
    with pytest.raises(TaskError, match=r"network\.json: "):
        parse_network(text)


_EXTREMES: list[Any] = [None, True, -1, 0, 1, 2, 3, 2**16, 2**24, 2**31, 2**63, 0.5, 1e300, "", "same", "d/kernel", []]


@settings(max_examples=500)
@given(st.data())
def test_a_mutated_description_is_refused_or_has_shapes(data: st.DataObject) -> None:
    """Whatever a field is changed to, or taken from elsewhere in it."""
    network = msgspec.json.decode(pack_network(NETWORK))
    for _ in range(data.draw(st.integers(1, 3))):
        at: Any = network
        while True:
            places = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not places:
                break
            place = data.draw(st.sampled_from(places))
            if isinstance(at[place], dict | list) and at[place] and data.draw(st.integers(0, 4)):
                at = at[place]
                continue
            at[place] = data.draw(st.sampled_from(_EXTREMES))
            break
    with suppress(TaskError):
        parsed = parse_network(msgspec.json.encode(network))
        parsed.check(TensorTable(ROWS))
        assert len(parsed.shapes()) == 1 + len(parsed.calls)


def test_the_smallest_table_tells_which_ids_there_are() -> None:
    small, large = (msgspec.structs.replace(embedding(size), name=f"e{size}", table=f"e{size}") for size in (9, 50))
    both = Network("n", ((6,),), (large, small, Add(name="a")), (Call(0, (0,)), Call(1, (0,)), Call(2, (1, 2))), (3,))

    assert both.vocabulary == 9
    assert both.shapes()[-1] == (6, 4)


@pytest.mark.parametrize(
    ("layers", "calls"),
    [
        ((embedding(), Add(name="a")), (Call(0, (0,)), Call(1, (0, 0)))),
        ((Reversal(name="a"), embedding()), (Call(0, (0,)), Call(1, (1,)))),
        ((embedding(),), (Call(0, (0,)), Call(0, (1,)))),
    ],
    ids=["ids added", "ids reversed", "numbers looked up"],
)
def test_ids_go_to_embeddings_and_to_nothing_else(layers: tuple[AnyLayer, ...], calls: tuple[Call, ...]) -> None:
    with pytest.raises(TaskError, match="takes ids as numbers, or numbers as ids; give ids to Embedding layers alone"):
        Network("n", ((6,),), layers, calls, (len(calls),)).shapes()
