"""Rules of layers that normalise: over batches with moving statistics, or each example by itself."""

from __future__ import annotations

import math
from typing import Any

from fedprune.graph import operations as ops
from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.batch_normalization import batch_normalization
from fedprune.graph.context import Context, Rules
from fedprune.graph.graph import Tensor
from fedprune.network.layers import BatchNormalization, GroupNormalization, LayerNormalization, UnitNormalization

_LEAST = 1e-12
"""The smallest square of a norm, TensorFlow's."""


def _batch_normalization(context: Context, layer: BatchNormalization, inputs: list[Value]) -> Value:
    (x,) = inputs
    gamma = context.weight(layer.gamma) if layer.gamma else ops.row(context.tape, 1.0, x.shape[-1])
    beta = context.weight(layer.beta) if layer.beta else ops.row(context.tape, 0.0, x.shape[-1])
    mean, variance = context.weight(layer.mean), context.weight(layer.variance)
    if context.examples is None or context.is_frozen(layer.mean):
        return _normalize_as_moved(context.tape, x, (gamma, beta, mean, variance), layer.epsilon)
    y, moments = batch_normalization(
        context.tape, x, gamma, beta, context.examples, epsilon=layer.epsilon, unbiased=layer.unbiased
    )
    context.move(layer.mean, moments.mean, layer.momentum)
    context.move(layer.variance, moments.variance, layer.momentum)
    return y


def _normalize_as_moved(tape: Tape, x: Value, weights: tuple[Value, Value, Value, Value], epsilon: float) -> Value:
    """Normalise as a frozen layer does: it uses the moving statistics and leaves them."""
    gamma, beta, mean, variance = weights
    graph = tape.graph
    factor = ops.scale(tape, gamma, graph.rsqrt(graph.add(variance.tensor, epsilon)))
    shift = ops.add(tape, beta, ops.scale(tape, factor, graph.multiply(mean.tensor, -1.0)))
    return ops.add(tape, ops.multiply(tape, x, factor), shift)


def _layer_normalization(context: Context, layer: LayerNormalization, inputs: list[Value]) -> Value:
    """Over rows of the last axes."""
    (x,) = inputs
    terms = math.prod(x.shape[-layer.axes :])
    rows = ops.reshape(context.tape, x, (x.tensor.size // terms, terms))
    y = _scale_and_shift(context, layer, _standardize(context.tape, rows, (1,), layer.epsilon))
    return ops.reshape(context.tape, y, x.shape)


def _group_normalization(context: Context, layer: GroupNormalization, inputs: list[Value]) -> Value:
    """Over places, and the channels of a group."""
    (x,) = inputs
    channels, places = x.shape[-1], math.prod(x.shape[1:-1])
    groups = (x.shape[0], places, layer.groups, channels // layer.groups)
    standard = _standardize(context.tape, ops.reshape(context.tape, x, groups), (3, 1), layer.epsilon)
    y = _scale_and_shift(context, layer, ops.reshape(context.tape, standard, (x.shape[0] * places, channels)))
    return ops.reshape(context.tape, y, x.shape)


def _unit_normalization(context: Context, _: UnitNormalization, inputs: list[Value]) -> Value:
    """Rows over their norms. Where a norm is too small to divide by, the divisor is a constant."""
    (x,) = inputs
    graph, last = context.tape.graph, len(x.shape) - 1
    square = graph.sum(graph.multiply(x.tensor, x.tensor), last)
    inverse = graph.rsqrt(graph.maximum(square, _LEAST))
    y = graph.multiply(x.tensor, inverse)

    def back(d: Tensor) -> Tensor:
        large = ops.is_positive(graph, graph.add(square, -_LEAST))
        along = graph.multiply(graph.sum(graph.multiply(d, y), last), large)
        return graph.multiply(graph.subtract(d, graph.multiply(y, along)), inverse)

    return context.tape.record(y, (x, back))


def _standardize(tape: Tape, x: Value, axes: tuple[int, ...], epsilon: float) -> Value:
    """`x` less its mean over `axes`, over its standard deviation."""
    graph = tape.graph
    part = 1.0 / math.prod(x.shape[axis] for axis in axes)

    def mean_of(values: Tensor) -> Tensor:
        for axis in axes:
            values = graph.sum(values, axis)
        return graph.multiply(values, part)

    centered = graph.subtract(x.tensor, mean_of(x.tensor))
    precision = graph.rsqrt(graph.add(mean_of(graph.multiply(centered, centered)), epsilon))
    y = graph.multiply(centered, precision)

    def back(d: Tensor) -> Tensor:
        along = graph.multiply(y, mean_of(graph.multiply(d, y)))
        return graph.multiply(graph.subtract(graph.subtract(d, mean_of(d)), along), precision)

    return tape.record(y, (x, back))


def _scale_and_shift(context: Context, layer: Any, rows: Value) -> Value:
    """Rows times gamma, plus beta, where the layer has them."""
    size = rows.shape[1:]
    if layer.gamma is not None:
        rows = ops.multiply(context.tape, rows, ops.reshape(context.tape, context.weight(layer.gamma), size))
    if layer.beta is not None:
        rows = ops.add(context.tape, rows, ops.reshape(context.tape, context.weight(layer.beta), size))
    return rows


RULES: Rules = {
    BatchNormalization: _batch_normalization,
    GroupNormalization: _group_normalization,
    LayerNormalization: _layer_normalization,
    UnitNormalization: _unit_normalization,
}
