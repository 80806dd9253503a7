"""A rule for each kind of layer: what becomes of the units of its inputs, and which units it makes.

A unit that is masked is exactly zero where it is made. A rule says whether it still is after the layer, or another
constant, and pins what would be neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from fedprune.model.tensors import Weights
from fedprune.network import layers as kinds
from fedprune.network.layers import Function, Operation, Padding, Shape
from fedprune.slimming.constants import Numbers, activated
from fedprune.slimming.partition import Labels
from fedprune.slimming.trace import Role, Trace, Value


def trace_layer(trace: Trace, layer: kinds.AnyLayer, inputs: list[Value]) -> Value:
    """The value that a call of a layer makes. A layer without a rule keeps the units of its inputs, and its own."""
    shape = layer.output(*(x.shape for x in inputs))
    return _RULES.get(type(layer), _without_rule)(trace, layer, inputs, shape)


def _without_rule(trace: Trace, layer: kinds.AnyLayer, inputs: list[Value], shape: Shape) -> Value:
    for x in inputs:
        trace.pin(layer, x.labels, "is of a kind whose units are not known")
    return trace.kept(shape, f"layer {layer.name!r} is of a kind whose units are not known")


# Layers with kernels


def _dense(trace: Trace, layer: kinds.Dense, inputs: list[Value], shape: Shape) -> Value:
    x, made = trace.along_channels(layer, inputs[0]), trace.make(layer, "units", layer.units)
    trace.take(layer, x, layer.kernel, 0, layer.bias)
    trace.tensor(layer, layer.kernel, 1, made, Role.MAKES)
    trace.tensor(layer, layer.bias, 0, made, Role.MAKES)
    return trace.value(shape, made)


def _convolution(trace: Trace, layer: kinds.Convolution, inputs: list[Value], shape: Shape) -> Value:
    """Each group has as many channels and filters as the others: those at one place in their groups go together."""
    x, made = trace.along_channels(layer, inputs[0]), trace.make(layer, "filters", layer.filters)
    axis, taken = len(layer.size), len(x.labels) // layer.groups
    if layer.groups > 1:
        for labels in (x.labels, made):
            size = len(labels) // layer.groups
            trace.partition.join(np.tile(labels[:size], layer.groups), labels)
        trace.need_zero(layer, x, "in groups")
    elif _pads(layer):
        trace.need_zero(layer, x, "and zeros around it")
    first = x if layer.groups == 1 else x.moved((*x.shape[:-1], taken), x.axis, np.arange(taken))
    trace.take(layer, first, layer.kernel, axis, layer.bias)
    trace.tensor(layer, layer.kernel, axis + 1, made, Role.MAKES)
    trace.tensor(layer, layer.bias, 0, made, Role.MAKES)
    return trace.value(shape, made)


def _transposed_convolution(
    trace: Trace, layer: kinds.TransposedConvolution, inputs: list[Value], shape: Shape
) -> Value:
    x, made = trace.along_channels(layer, inputs[0]), trace.make(layer, "filters", layer.filters)
    axis = len(layer.size)
    trace.need_zero(layer, x, "and not everywhere the same")
    trace.tensor(layer, layer.kernel, axis + 1, x.labels, Role.TAKES)
    trace.tensor(layer, layer.kernel, axis, made, Role.MAKES)
    trace.tensor(layer, layer.bias, 0, made, Role.MAKES)
    return trace.value(shape, made)


def _depthwise(trace: Trace, layer: kinds.DepthwiseConvolution, inputs: list[Value], shape: Shape) -> Value:
    """The kernel of a channel that is zero makes zeros of anything."""
    x = trace.along_channels(layer, inputs[0])
    made = np.repeat(x.labels, layer.multiplier)
    trace.tensor(layer, layer.kernel, len(layer.size), x.labels, Role.MAKES)
    trace.tensor(layer, layer.bias, 0, made, Role.MAKES)
    return trace.value(shape, made)


def _embedding(trace: Trace, layer: kinds.Embedding, inputs: list[Value], shape: Shape) -> Value:  # noqa: ARG001
    made = trace.make(layer, "units", layer.units)
    trace.tensor(layer, layer.table, 1, made, Role.MAKES)
    return trace.value(shape, made)


def _recurrent(trace: Trace, layer: kinds.Recurrent, inputs: list[Value], shape: Shape) -> Value:
    """A unit of a cell whose gates get zeros alone stays at its state of zero: the candidate is tanh(0)."""
    x, made = trace.along_channels(layer, inputs[0]), trace.make(layer, "units", layer.units)
    gates = np.tile(made, layer.gates)
    has_rows = isinstance(layer, kinds.GRU) and layer.reset_after
    trace.take(layer, x, layer.kernel, 0, layer.bias, 0 if has_rows else None)
    trace.tensor(layer, layer.kernel, 1, gates, Role.MAKES)
    trace.tensor(layer, layer.recurrent, 0, made, Role.TAKES)
    trace.tensor(layer, layer.recurrent, 1, gates, Role.MAKES)
    trace.tensor(layer, layer.bias, 1 if has_rows else 0, gates, Role.MAKES)
    return trace.value(shape, made)


def _attention(trace: Trace, layer: kinds.MultiHeadAttention, inputs: list[Value], shape: Shape) -> Value:
    """A head is a unit, and so is each channel of the output."""
    heads, made = trace.make(layer, "heads", layer.heads), trace.make(layer, "units", layer.units)
    query, value, key, *_ = layer.roles(inputs)
    for x, kernel, bias in (
        (query, layer.query_kernel, layer.query_bias),
        (value, layer.value_kernel, layer.value_bias),
        (key, layer.key_kernel, layer.key_bias),
    ):
        trace.take(layer, trace.along_channels(layer, x), kernel, 0, bias)
        trace.tensor(layer, kernel, 1, heads, Role.MAKES)
        trace.tensor(layer, bias, 0, heads, Role.MAKES)
    trace.tensor(layer, layer.output_kernel, 0, heads, Role.TAKES)
    trace.tensor(layer, layer.output_kernel, 2, made, Role.MAKES)
    trace.tensor(layer, layer.output_bias, 0, made, Role.MAKES)
    return trace.value(shape, made)


# Layers that normalise


def _batch_normalization(trace: Trace, layer: kinds.BatchNormalization, inputs: list[Value], shape: Shape) -> Value:
    x = trace.along_channels(layer, inputs[0])
    for name, role in (
        (layer.gamma, Role.MAKES),
        (layer.beta, Role.MAKES),
        (layer.mean, Role.FOLLOWS),
        (layer.variance, Role.FOLLOWS),
    ):
        trace.tensor(layer, name, 0, x.labels, role)
    if layer.gamma is not None:
        return trace.value(shape, x.labels)

    def normalized(numbers: Numbers, weights: Weights) -> Numbers:
        mean, variance = (weights[name].astype(np.float64) for name in (layer.mean, layer.variance))
        return (numbers - mean) / np.sqrt(variance + layer.epsilon)

    return x.mapped(normalized, np.zeros(len(x.labels), np.bool_))


def _group_normalization(trace: Trace, layer: kinds.GroupNormalization, inputs: list[Value], shape: Shape) -> Value:
    """Channels of a group are normalised by each other, and so go together."""
    x = trace.along_channels(layer, inputs[0])
    rows = x.labels.reshape(layer.groups, -1)
    trace.partition.join(np.repeat(rows[:, 0], rows.shape[1]), x.labels)
    trace.follow(layer, "groups", rows[:, 0])
    for name in (layer.gamma, layer.beta):
        trace.tensor(layer, name, 0, x.labels, Role.MAKES)
    if layer.gamma is None:
        trace.need_zero(layer, x, "and has no gamma")
    return trace.value(shape, x.labels)


def _layer_normalization(trace: Trace, layer: kinds.LayerNormalization, inputs: list[Value], shape: Shape) -> Value:
    """Mean and variance are over all channels, so that without one of them the others would be other numbers."""
    trace.pin(layer, inputs[0].labels, what := "normalises each example over all of its channels")
    return trace.kept(shape, f"layer {layer.name!r} {what}")


def _unit_normalization(trace: Trace, layer: kinds.UnitNormalization, inputs: list[Value], shape: Shape) -> Value:
    """A zero adds nothing to a norm."""
    x = trace.along_channels(layer, inputs[0])
    trace.need_zero(layer, x, "and divides by the norm of all")
    trace.read_whole.append(x.labels)
    return trace.value(shape, x.labels)


# Layers that take each number by itself


def _activation(trace: Trace, layer: kinds.Activation, inputs: list[Value], shape: Shape) -> Value:
    (x,) = inputs
    if layer.function is Function.SOFTMAX:
        trace.pin(layer, x.labels, "is a softmax, in which zeros count too")
        return trace.kept(shape, f"layer {layer.name!r} is a softmax")
    keeps_zero = not activated(layer, np.zeros(1))[0]
    return x.mapped(lambda numbers, _: activated(layer, numbers), x.is_zero & keeps_zero)


def _rescaling(trace: Trace, layer: kinds.Rescaling, inputs: list[Value], shape: Shape) -> Value:  # noqa: ARG001
    x = trace.along_channels(layer, inputs[0])
    for attribute in ("scale", "offset"):
        if len(getattr(layer, attribute)) > 1:
            trace.follow(layer, attribute, x.labels)
    size = len(x.labels)
    scale, offset = np.broadcast_to(layer.scale, size), np.broadcast_to(layer.offset, size)
    return x.mapped(lambda numbers, _: numbers * scale + offset, x.is_zero & (offset == 0.0))


def _unchanged(trace: Trace, layer: kinds.AnyLayer, inputs: list[Value], shape: Shape) -> Value:  # noqa: ARG001
    return inputs[0]


# Layers that join values


def _add(trace: Trace, layer: kinds.Add, inputs: list[Value], shape: Shape) -> Value:
    if not _agree(trace, layer, inputs):
        return trace.kept(shape, f"layer {layer.name!r} adds values along different axes")
    _join_all(trace, [x.labels for x in inputs])
    is_zero = np.logical_and.reduce([x.is_zero for x in inputs])
    return inputs[0].mapped(lambda _, weights: np.sum([x.numbers(weights) for x in inputs], axis=0), is_zero)


def _merge(trace: Trace, layer: kinds.Merge, inputs: list[Value], shape: Shape) -> Value:
    """A value of one channel, which is repeated, has no unit of its own to lose."""
    inputs = [trace.along_channels(layer, x) for x in inputs]
    whole = [x for x in inputs if len(x.labels) == shape[-1]]
    for x in inputs:
        if len(x.labels) != shape[-1]:
            trace.pin(layer, x.labels, "repeats it for each channel")
    _join_all(trace, [x.labels for x in whole])
    flags = [x.is_zero for x in whole]
    is_product = layer.operation is Operation.MULTIPLY
    is_zero = np.logical_or.reduce(flags) if is_product else np.logical_and.reduce(flags)
    if len(whole) < len(inputs):
        others = slice(None) if not is_product else ~is_zero
        trace.pin(layer, whole[0].labels[others], "joins it with a channel that stays")
        return trace.value(shape, whole[0].labels)

    def joined(_: Numbers, weights: Weights) -> Numbers:
        return reduce(_JOINS[layer.operation], [x.numbers(weights) for x in whole])

    return whole[0].moved(shape, len(shape) - 1).mapped(joined, is_zero)


_JOINS: dict[Operation, Callable[[Numbers, Numbers], Numbers]] = {
    Operation.MULTIPLY: np.multiply,
    Operation.MAXIMUM: np.maximum,
    Operation.MINIMUM: np.minimum,
}


def _concatenate(trace: Trace, layer: kinds.Concatenate, inputs: list[Value], shape: Shape) -> Value:
    if not _agree(trace, layer, inputs):
        return trace.kept(shape, f"layer {layer.name!r} joins values along different axes")
    axis = inputs[0].axis
    if layer.axis != axis:
        _join_all(trace, [x.labels for x in inputs])
        for x in inputs:
            trace.need_zero(layer, x, "and joins places of it")
        return inputs[0].moved(shape, axis)
    labels, is_zero = (np.concatenate(parts) for parts in zip(*((x.labels, x.is_zero) for x in inputs), strict=True))

    def constants(weights: Weights) -> Numbers:
        return np.concatenate([x.numbers(weights) for x in inputs])

    return Value(shape, axis, labels, is_zero, None if is_zero.all() else constants)


def _dot(trace: Trace, layer: kinds.Dot, inputs: list[Value], shape: Shape) -> Value:
    for x in inputs:
        trace.pin(layer, x.labels, what := "multiplies values with each other")
    return trace.kept(shape, f"layer {layer.name!r} {what}")


# Layers that move numbers, and windows without kernels


def _reshape(trace: Trace, layer: kinds.Reshape, inputs: list[Value], shape: Shape) -> Value:
    """Units along an axis of the new shape, if there is one along which they repeat, as after Flatten."""
    (x,) = inputs
    inner, count = math.prod(x.shape[x.axis + 1 :]), len(x.labels)
    for axis in reversed(range(len(shape))):
        step = math.prod(shape[axis + 1 :])
        if count and inner % step == 0 and shape[axis] * step % (inner * count) == 0:
            made = x.moved(shape, axis, np.arange(shape[axis]) * step // inner % count)
            trace.follow(layer, "shape", made.labels, axis)
            return made
    trace.pin(layer, x.labels, what := f"makes the shape {list(shape)}, along no axis of which it lies")
    return trace.kept(shape, f"layer {layer.name!r} {what}")


def _permute(trace: Trace, layer: kinds.Permute, inputs: list[Value], shape: Shape) -> Value:  # noqa: ARG001
    return inputs[0].moved(shape, layer.axes.index(inputs[0].axis))


def _reversal(trace: Trace, layer: kinds.Reversal, inputs: list[Value], shape: Shape) -> Value:  # noqa: ARG001
    (x,) = inputs
    return x.moved(shape, x.axis, np.arange(len(x.labels))[::-1]) if x.axis == 0 else x


def _zero_padding(trace: Trace, layer: kinds.ZeroPadding, inputs: list[Value], shape: Shape) -> Value:
    x = trace.along_channels(layer, inputs[0])
    trace.need_zero(layer, x, "and puts zeros around it")
    return x.moved(shape, len(shape) - 1)


def _over_places(trace: Trace, layer: kinds.AnyLayer, inputs: list[Value], shape: Shape) -> Value:
    """Means and maxima of places, which padding does not enter, and places that are moved: constants stay."""
    return trace.along_channels(layer, inputs[0]).moved(shape, len(shape) - 1)


def _global_pooling(trace: Trace, layer: kinds.GlobalPooling, inputs: list[Value], shape: Shape) -> Value:
    if len(inputs) > 1:
        trace.need_zero(layer, inputs[0], "and leaves masked steps out, which may be all")
    return _over_places(trace, layer, inputs, shape)


def _mask(trace: Trace, layer: kinds.IdMask | kinds.StepMask, inputs: list[Value], shape: Shape) -> Value:
    trace.pin(layer, inputs[0].labels, what := "finds padded steps in it")
    return trace.kept(shape, f"layer {layer.name!r} {what}")


def _pads(layer: kinds.Dilated) -> bool:
    return layer.padding is not Padding.VALID and max(layer.reach()) > 1


def _agree(trace: Trace, layer: kinds.AnyLayer, inputs: Sequence[Value]) -> bool:
    """True if units lie along one axis of all inputs. Else they are kept."""
    if len({x.axis for x in inputs}) == 1:
        return True
    for x in inputs:
        trace.pin(layer, x.labels, "joins values along different axes")
    return False


def _join_all(trace: Trace, labels: Sequence[Labels]) -> None:
    for other in labels[1:]:
        trace.partition.join(labels[0], other)


_RULES: dict[type, Callable[[Trace, Any, list[Value], Shape], Value]] = {
    kinds.GRU: _recurrent,
    kinds.LSTM: _recurrent,
    kinds.Activation: _activation,
    kinds.Add: _add,
    kinds.BatchNormalization: _batch_normalization,
    kinds.Concatenate: _concatenate,
    kinds.Convolution: _convolution,
    kinds.Cropping: _over_places,
    kinds.Dense: _dense,
    kinds.DepthwiseConvolution: _depthwise,
    kinds.Dot: _dot,
    kinds.Dropout: _unchanged,
    kinds.Embedding: _embedding,
    kinds.GaussianNoise: _unchanged,
    kinds.GlobalPooling: _global_pooling,
    kinds.GroupNormalization: _group_normalization,
    kinds.IdMask: _mask,
    kinds.LayerNormalization: _layer_normalization,
    kinds.Merge: _merge,
    kinds.MultiHeadAttention: _attention,
    kinds.Permute: _permute,
    kinds.Pooling: _over_places,
    kinds.Rescaling: _rescaling,
    kinds.Reshape: _reshape,
    kinds.Reversal: _reversal,
    kinds.SimpleRNN: _recurrent,
    kinds.StepMask: _mask,
    kinds.TransposedConvolution: _transposed_convolution,
    kinds.UnitNormalization: _unit_normalization,
    kinds.Upsampling: _over_places,
    kinds.ZeroPadding: _zero_padding,
}
