"""Layer rules: each layer of a description, as it trains and as it infers, in differentiable operations.

A rule takes the context, the layer and its inputs, and returns its output. Layers over one axis are layers over images
of one row.

Functions of single numbers that keep their order (adding a bias, ReLU) can as well be applied after a maximum as before
it, on a quarter of the numbers, and give the same: so values are *pending*, until something needs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedprune.graph import operations as ops
from fedprune.graph.activations import KEEP_ORDER, activate
from fedprune.graph.attention import multi_head_attention
from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.context import Context
from fedprune.graph.convolutions import as_image, convolution, depthwise, transposed_convolution, with_bias
from fedprune.graph.joins import merge
from fedprune.graph.masks import id_mask, masked_mean, step_mask
from fedprune.graph.noise import dropout, gaussian_noise
from fedprune.graph.normalization import batch_normalization
from fedprune.graph.products import dot
from fedprune.graph.rearranging import cropping, permute, upsampling
from fedprune.graph.sequence_rules import embedding, gru, lstm, reversal, simple_rnn
from fedprune.graph.standardization import group_normalization, layer_normalization, unit_normalization
from fedprune.graph.windows import (
    Windows,
    average_pool,
    max_pool,
    windows_of,
)
from fedprune.network import layers as kinds
from fedprune.network.layers import Statistic


class Pending:
    """A value, and functions that are still to be applied to it, one after the other."""

    def __init__(self, value: Value, *functions: Callable[[Value], Value]) -> None:
        self._value = value
        self._functions = functions

    def then(self, *functions: Callable[[Value], Value]) -> Pending:
        """The same value with more `functions`, each of which keeps the order of numbers."""
        return Pending(self._value, *self._functions, *functions)

    def below(self, function: Callable[[Value], Value]) -> Pending:
        """`function` applied at once to the value, below what is pending."""
        return Pending(function(self._value), *self._functions)

    def get(self) -> Value:
        """The value with all functions applied."""
        while self._functions:
            first, *others = self._functions
            self._value, self._functions = first(self._value), tuple(others)
        return self._value


def apply_layer(context: Context, layer: kinds.AnyLayer, inputs: list[Pending]) -> Pending:
    """The output of a layer that was checked."""
    match layer:
        case kinds.Pooling(statistic=Statistic.MAX):
            return inputs[0].below(lambda x: _pooling(context, layer, [x]))
        case kinds.Activation(function=function) if function in KEEP_ORDER:
            return inputs[0].then(lambda x: _activation(context, layer, [x]))
        case kinds.Convolution(bias=bias):
            y = Pending(convolution(context, layer, [inputs[0].get()]))
            return y.then(lambda x: ops.add(context.tape, x, context.weight(bias))) if bias else y
    return Pending(_RULES[type(layer)](context, layer, [x.get() for x in inputs]))


def _dense(context: Context, layer: kinds.Dense, inputs: list[Value]) -> Value:
    (x,) = inputs
    rows = ops.reshape(context.tape, x, (*ops.in_blocks(x.tensor.size // x.shape[-1]), x.shape[-1]))
    y = ops.matmul(context.tape, rows, context.weight(layer.kernel), in_parts=True)
    return with_bias(context, layer, ops.reshape(context.tape, y, (*x.shape[:-1], layer.units)))


def _batch_normalization(context: Context, layer: kinds.BatchNormalization, inputs: list[Value]) -> Value:
    (x,) = inputs
    gamma = context.weight(layer.gamma) if layer.gamma else _constant(context.tape, 1.0, x.shape[-1])
    beta = context.weight(layer.beta) if layer.beta else _constant(context.tape, 0.0, x.shape[-1])
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


def _pooling(context: Context, layer: kinds.Pooling, inputs: list[Value]) -> Value:
    x = as_image(context.tape, inputs[0])
    windows = windows_of(layer, x.shape)
    pool = max_pool if layer.statistic is Statistic.MAX else average_pool
    return ops.reshape(context.tape, pool(context.tape, x, windows), _places(inputs[0], windows, x.shape[-1]))


def _global_pooling(context: Context, layer: kinds.GlobalPooling, inputs: list[Value]) -> Value:
    x, *masks = inputs
    places = math.prod(x.shape[1:-1])
    flat = ops.reshape(context.tape, x, (x.shape[0], places, x.shape[-1]))
    if masks:
        y = masked_mean(context.tape, flat, masks[0].tensor)
    elif layer.statistic is Statistic.MAX:
        y = ops.max_over(context.tape, flat, 1)
    else:
        y = ops.scale(context.tape, ops.sum_over(context.tape, flat, 1), 1.0 / places)
    return ops.reshape(context.tape, y, (x.shape[0], *layer.output(x.shape[1:])))


def _reshape(context: Context, layer: kinds.Reshape, inputs: list[Value]) -> Value:
    return ops.reshape(context.tape, inputs[0], (inputs[0].shape[0], *layer.shape))


def _zero_padding(context: Context, layer: kinds.ZeroPadding, inputs: list[Value]) -> Value:
    return ops.pad(context.tape, inputs[0], dict(enumerate(layer.padding, start=1)))


def _rescaling(context: Context, layer: kinds.Rescaling, inputs: list[Value]) -> Value:
    (x,) = inputs
    y = ops.scale(context.tape, x, _constant(context.tape, layer.scale, x.shape[-1]).tensor)
    return ops.add(context.tape, y, _constant(context.tape, layer.offset, x.shape[-1]))


def _add(context: Context, _: kinds.Add, inputs: list[Value]) -> Value:
    total, *others = inputs
    for other in others:
        total = ops.add(context.tape, total, other)
    return total


def _concatenate(context: Context, layer: kinds.Concatenate, inputs: list[Value]) -> Value:
    return ops.concatenate(context.tape, inputs, layer.axis + 1)


def _activation(context: Context, layer: kinds.Activation, inputs: list[Value]) -> Value:
    (x,) = inputs
    return activate(context.tape, layer, x)


def _places(x: Value, windows: Windows, channels: int) -> tuple[int, ...]:
    """The shape of an output: with rows where the input `x` has some."""
    rows = (windows.rows.out,) if len(x.shape) == 4 else ()
    return (x.shape[0], *rows, windows.columns.out, channels)


def _constant(tape: Tape, value: float | Sequence[float], size: int) -> Value:
    return tape.leaf(tape.graph.constant(np.full(size, value, np.float32)), differentiable=False)


_RULES: dict[type, Callable[[Context, Any, list[Value]], Value]] = {
    kinds.GRU: gru,
    kinds.LSTM: lstm,
    kinds.Activation: _activation,
    kinds.Add: _add,
    kinds.BatchNormalization: _batch_normalization,
    kinds.Concatenate: _concatenate,
    kinds.Cropping: cropping,
    kinds.Dense: _dense,
    kinds.DepthwiseConvolution: depthwise,
    kinds.Dot: dot,
    kinds.Dropout: dropout,
    kinds.GaussianNoise: gaussian_noise,
    kinds.Embedding: embedding,
    kinds.GlobalPooling: _global_pooling,
    kinds.GroupNormalization: group_normalization,
    kinds.IdMask: id_mask,
    kinds.LayerNormalization: layer_normalization,
    kinds.Merge: merge,
    kinds.MultiHeadAttention: multi_head_attention,
    kinds.Permute: permute,
    kinds.Pooling: _pooling,
    kinds.Rescaling: _rescaling,
    kinds.Reshape: _reshape,
    kinds.TransposedConvolution: transposed_convolution,
    kinds.UnitNormalization: unit_normalization,
    kinds.Upsampling: upsampling,
    kinds.Reversal: reversal,
    kinds.SimpleRNN: simple_rnn,
    kinds.StepMask: step_mask,
    kinds.ZeroPadding: _zero_padding,
}
