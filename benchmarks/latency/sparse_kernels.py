"""Does XNNPACK run a model with its sparse kernels? Pruned weights make nothing faster without them.

XNNPACK rewrites a part of a network to NCHW, and so takes sparse kernels, only where the part follows a pattern (Elsen
et al. 2020, "Fast Sparse ConvNets", arXiv 1911.09723; "Sparse Inference" in the README of TensorFlow Lite's XNNPACK
delegate; `xnn_check_nchw_compatibility` and `xnn_subgraph_rewrite_for_nchw` in XNNPACK's `src/subgraph.c`):

- it begins with 3x3 convolutions of stride 2, 3 input channels and padding 1 on each side;
- it ends with a mean over height and width, or with DEPTH_TO_SPACE;
- in between are 1x1 convolutions, depthwise ones of 3x3 or 5x5 with half the kernel as padding on each side, sums,
  products, activations and bilinear resizing, and nothing else uses their values;
- more than 2/3 of the weights of its 1x1 convolutions are zero, floating point, and stored in sparse encoding.

Dense layers, which newer versions of XNNPACK take too, are left out: they come after the mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

_LEAST_ZEROS = 2 / 3
_SHOWN = 4
"""Changes of the network that are told; more would not be read."""

_ACTIVATIONS = {"ELU", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "RELU", "RELU6", "RELU_N1_TO_1", "TANH"}
_ARITHMETIC = {"ABS", "ADD", "CEIL", "EXP", "FLOOR", "LOG", "MUL", "NEG", "ROUND", "RSQRT", "SQRT", "SQUARE"}
_INSIDE = {*_ACTIVATIONS, *_ARITHMETIC, "RESIZE_BILINEAR", "DEPTH_TO_SPACE", "MEAN"}
_ENDS = {"MEAN", "DEPTH_TO_SPACE"}
_CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D"}
_IMAGE = 4
"""Axes of a batch of images."""


class SparseKernels(msgspec.Struct, frozen=True):
    """`qualifies`: XNNPACK takes its sparse kernels, on processors for which it has them. Else `changes` says what to
    change. `zeros` is the fraction of zeros in its 1x1 convolutions, None where it has none of floating point."""

    qualifies: bool
    zeros: float | None
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Filter:
    """The constant weights of a convolution."""

    size: tuple[int, int]
    in_channels: int
    count: int
    zeros: int
    is_float: bool
    is_sparse: bool
    """Stored in sparse encoding."""


@dataclass(frozen=True)
class Operator:
    """An operator of a model. `inputs` and `outputs` are numbers of values that are computed, constants left out.

    `padding` is (top, bottom, left, right), an operator PAD before it included; None where it is not the same number of
    pixels for all sizes of images. Only convolutions have a `filter`. `axes` are those of the result.
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    axes: int
    filter: Filter | None = None
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] | None = (0, 0, 0, 0)
    depth_multiplier: int = 1
    is_spatial_mean: bool = False


def judge_operators(operators: Sequence[Operator]) -> SparseKernels:
    """Judge a model by its operators, in the order in which they are computed."""
    filters = [each.filter for each in operators if each.filter is not None and _is_one_by_one(each)]
    if not filters:
        return SparseKernels(False, None, ("use 1x1 convolutions: XNNPACK has sparse kernels for these only",))
    if not all(each.is_float for each in filters):
        return SparseKernels(False, None, ("take fp32-sparse: XNNPACK has sparse kernels for floating point only",))
    zeros = sum(each.zeros for each in filters) / max(sum(each.count for each in filters), 1)
    changes = [*dict.fromkeys(_changes_of_the_network(operators))][:_SHOWN]
    if zeros <= _LEAST_ZEROS:
        changes.append(f"prune the 1x1 convolutions to more than 2/3 zeros, they have {zeros:.0%}")
    if not all(each.is_sparse for each in filters):
        changes.append("export it in sparse encoding, as fp32-sparse")
    return SparseKernels(not changes, zeros, tuple(changes))


def _changes_of_the_network(operators: Sequence[Operator]) -> Iterator[str]:
    """What keeps a network from the pattern; nothing if one of its parts follows it."""
    ends = [each for each in operators if each.kind in _ENDS and (each.kind != "MEAN" or each.is_spatial_mean)]
    if not ends:
        yield "end the convolutions with a mean over height and width (GlobalAveragePooling2D)"
    found = [list(_changes_before(end, operators)) for end in ends]
    if all(found):
        yield from (change for changes in found for change in changes)


def _changes_before(end: Operator, operators: Sequence[Operator]) -> Iterator[str]:
    """Walk from the part's end back to the convolutions that it begins with."""
    producers = {value: each for each in operators for value in each.outputs}
    part: dict[int, Operator] = {id(end): end}
    waiting = [end]
    while waiting:
        each = waiting.pop()
        for value in each.inputs:
            producer = producers.get(value)
            if producer is None:
                yield f"begin with a 3x3 convolution of stride 2 and 3 input channels: {each.name} has the input"
            elif id(producer) not in part and not _begins(producer):
                part[id(producer)] = producer
                if change := _unfit(producer):
                    yield change
                else:
                    waiting.append(producer)
    yield from _used_elsewhere(part, producers, operators)
    if not any(_is_one_by_one(each) for each in part.values()):
        yield f"use 1x1 convolutions before {end.name}"


def _used_elsewhere(
    part: Mapping[int, Operator], producers: Mapping[int, Operator], operators: Sequence[Operator]
) -> Iterator[str]:
    inside = {value for each in part.values() for value in each.inputs}
    for each in operators:
        if id(each) not in part:
            for value in inside.intersection(each.inputs):
                yield f"let nothing but the sparse part use what {producers[value].name} computes: {each.name} does"


def _begins(operator: Operator) -> bool:
    kernel = operator.filter
    return (
        operator.kind == "CONV_2D"
        and kernel is not None
        and (kernel.size, kernel.in_channels, operator.stride) == ((3, 3), 3, (2, 2))
        and operator.dilation == (1, 1)
        and operator.padding == (1, 1, 1, 1)
    )


def _unfit(operator: Operator) -> str | None:
    """The change by which an operator fits between beginning and end; None if it does."""
    if operator.kind not in _CONVOLUTIONS:
        fits = operator.kind in _INSIDE and (operator.axes == _IMAGE or operator.kind == "MEAN")
        return None if fits else f"do without {operator.kind} ({operator.name})"
    if operator.filter is None:
        return f"give {operator.name} constant weights"
    if operator.dilation != (1, 1):
        return f"do without dilation in {operator.name}"
    if operator.kind == "CONV_2D":
        return _unfit_convolution(operator, operator.filter)
    return _unfit_depthwise(operator, operator.filter)


def _unfit_convolution(operator: Operator, kernel: Filter) -> str | None:
    if kernel.size == (1, 1):
        fits = operator.stride == (1, 1) and operator.padding == (0, 0, 0, 0)
        return None if fits else f"give the 1x1 convolution {operator.name} stride 1 and no padding"
    if kernel.size == (3, 3) and kernel.in_channels == 3:
        return (
            f"give {operator.name}, the first convolution, stride 2, and for padding `same` a ZeroPadding2D of 1 "
            "before it and padding `valid`"
        )
    height, width = kernel.size
    return f"make {operator.name} ({height}x{width}) a depthwise convolution and a 1x1 one"


def _unfit_depthwise(operator: Operator, kernel: Filter) -> str | None:
    height, width = kernel.size
    if height != width or height not in (3, 5) or operator.stride not in ((1, 1), (2, 2)):
        return f"give the depthwise convolution {operator.name} a kernel of 3x3 or 5x5 and stride 1 or 2"
    if operator.depth_multiplier != 1:
        return f"give the depthwise convolution {operator.name} depth multiplier 1"
    if operator.padding != (height // 2,) * 4:
        return f"give the depthwise convolution {operator.name} a ZeroPadding2D of {height // 2} and padding `valid`"
    return None


def _is_one_by_one(operator: Operator) -> bool:
    return operator.kind == "CONV_2D" and operator.filter is not None and operator.filter.size == (1, 1)
