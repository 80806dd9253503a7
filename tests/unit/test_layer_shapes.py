"""Layers of a description: the shapes and tensors that they have, and what they refuse to take."""

from __future__ import annotations

from typing import Any

import pytest

from fedprune.network.layers import (
    GRU,
    LSTM,
    Activation,
    Add,
    AnyLayer,
    Concatenate,
    Cropping,
    DepthwiseConvolution,
    Dot,
    Dropout,
    Function,
    GaussianNoise,
    GlobalPooling,
    GroupNormalization,
    IdMask,
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
    StepMask,
    TransposedConvolution,
    UnitNormalization,
    Upsampling,
    ZeroPadding,
)
from tests.described import convolution, dense, embedding, normalization

MEAN, MAX = Statistic.MEAN, Statistic.MAX
SAME, CAUSAL = Padding.SAME, Padding.CAUSAL


def depthwise(size: Shape, strides: Shape, **changes: Any) -> DepthwiseConvolution:
    return DepthwiseConvolution(name="c", size=size, strides=strides, kernel="c/kernel", **changes)


def pooling(size: Shape, strides: Shape, **changes: Any) -> Pooling:
    return Pooling(name="p", size=size, strides=strides, statistic=MAX, **changes)


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
    "a cell with a mask": (
        cell(SimpleRNN, zero_masked=True),
        ((6, 3), (6,)),
        (4,),
        {"r/kernel": (3, 4), "r/recurrent": (4, 4)},
    ),
    "mask of ids": (IdMask(name="m"), ((6,),), (6,), {}),
    "mask of steps": (StepMask(name="m", padding=-1.0), ((6, 3),), (6,), {}),
    "mean without masked steps": (GlobalPooling(name="p", statistic=MEAN), ((5, 3), (5,)), (3,), {}),
    "attention with masks": (
        attention(masked_queries=True, masked_keys=True),
        ((6, 5), (4, 3), (6,), (4,)),
        (6, 7),
        {"q": (5, 2, 3), "k": (3, 2, 3), "v": (3, 2, 4), "o": (2, 4, 7)},
    ),
    "bilinear": (Upsampling(name="u", size=(2, 3), bilinear=True), ((4, 5, 2),), (8, 15, 2), {}),
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
    "a cell with two masks": (cell(LSTM), ((6, 3), (6,), (6,)), "takes 2 inputs, not 3"),
    "a mask of other steps": (
        cell(GRU),
        ((6, 3), (5,)),
        r"takes a mask for the steps of \[6, 3\], not the shape \[5\]",
    ),
    "a mask of one id": (IdMask(name="m"), ((),), "takes steps, not a single id"),
    "a mask of channels": (StepMask(name="m", padding=0.0), ((3,),), r"takes steps and channels, not the shape \[3\]"),
    "a masked maximum": (GlobalPooling(name="p", statistic=MAX), ((5, 3), (5,)), "takes a mask where it is no mean"),
    "a masked mean of images": (
        GlobalPooling(name="p", statistic=MEAN),
        ((5, 4, 3), (5,)),
        r"but the mean of \[5, 4, 3\]",
    ),
    "attention without its mask": (attention(masked_keys=True), ((6, 5), (6, 5)), "takes 2 or 3 inputs and 1 masks"),
    "attention with nothing but masks": (attention(masked_keys=True), ((6,),), "takes 2 or 3 inputs and 1 masks"),
    "attention with a mask of others": (
        attention(masked_keys=True),
        ((6, 5), (4, 3), (6,)),
        r"takes a mask for the places of \[4, 3\], not the shape \[6\]",
    ),
    "a bilinear series": (Upsampling(name="u", size=(2,), bilinear=True), ((4, 2),), "is bilinear, which takes two"),
    "a huge bilinear image": (
        Upsampling(name="u", size=(2, 2), bilinear=True),
        ((2, 2**12, 1),),
        "interpolates between more than 16777216 pairs",
    ),
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
    "attention of one": (attention(), ((6, 5),), "takes 2 or 3 inputs and 0 masks, not 1"),
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
