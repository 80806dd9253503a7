"""Layer rules: each Keras layer, as it trains, in differentiable operations. Importing this imports TensorFlow.

A rule takes the network, the layer and its inputs, and returns its output. Layers over time steps are layers over
images of one row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from export.training_graph import operations as ops
from export.training_graph.autodiff import Tape, Value
from export.training_graph.network import Network, NoTrainingGraph, label, plain, refuse, require
from export.training_graph.normalization import batch_normalization
from export.training_graph.windows import (
    Windows,
    average_pool,
    convolution_patches,
    depthwise_convolution,
    max_pool,
    window,
)
from fedprune.keras.stack import keras, tf


def apply_layer(net: Network, layer: Any, inputs: list[Value]) -> Value:
    """Raises `NoTrainingGraph`, naming the layer, for what is not supported; its kind was checked."""
    _check_common(layer)
    return _RULES[type(layer)](net, layer, inputs)


def check_kind(layer: Any) -> None:
    """Raise `NoTrainingGraph` unless there is a rule for such layers."""
    if type(layer) not in _RULES:
        kinds = ", ".join(sorted(kind.__name__ for kind in _RULES))
        raise NoTrainingGraph(
            f"{label(layer)}: only layers of these kinds train without TensorFlow: {kinds}; use them, "
            "or train with the keras trainer"
        )


def _check_common(layer: Any) -> None:
    require(layer, compute_dtype="float32")
    if hasattr(layer, "data_format"):
        require(layer, data_format="channels_last")
    for name, value in vars(layer).items():
        if name.endswith("_constraint") and value is not None:
            refuse(layer, name, "none")
    if getattr(layer, "activity_regularizer", None) is not None:
        refuse(layer, "activity_regularizer", "a regularizer of its weights")


def _dense(net: Network, layer: Any, inputs: list[Value]) -> Value:
    (x,) = inputs
    y = _product(net.tape, x, net.weight(layer, "kernel"))
    return _finish(net, layer, y)


def _convolution(net: Network, layer: Any, inputs: list[Value]) -> Value:
    require(layer, groups=1, dilation_rate=(1,) * layer.rank)
    x = _as_image(net.tape, layer, inputs[0])
    windows = _windows(layer, x, layer.kernel_size, layer.strides)
    kernel = net.weight(layer, "kernel")
    matrix = ops.reshape(net.tape, kernel, (math.prod(kernel.shape[:-1]), layer.filters))
    y = ops.matmul(net.tape, convolution_patches(net.tape, x, windows), matrix)
    y = ops.reshape(net.tape, y, _places(inputs[0], windows, layer.filters))
    return _finish(net, layer, y)


def _depthwise(net: Network, layer: Any, inputs: list[Value]) -> Value:
    y = _each_channel(net, layer, inputs[0])
    return _finish(net, layer, y)


def _separable(net: Network, layer: Any, inputs: list[Value]) -> Value:
    y = _each_channel(net, layer, inputs[0])
    pointwise = net.weight(layer, "pointwise_kernel")
    y = _product(net.tape, y, ops.reshape(net.tape, pointwise, pointwise.shape[-2:]))
    return _finish(net, layer, y)


def _each_channel(net: Network, layer: Any, x: Value) -> Value:
    """A depthwise convolution; with a depth multiplier, of channels that are repeated."""
    kernel = net.weight(layer, "depthwise_kernel")
    size, (channels, multiplier) = kernel.shape[:-2], kernel.shape[-2:]
    require(layer, dilation_rate=(1,) * len(size))
    image = ops.repeat_channels(net.tape, _as_image(net.tape, layer, x), multiplier)
    windows = _windows(layer, image, size, layer.strides)
    filters = ops.reshape(net.tape, kernel, (math.prod(size), channels * multiplier))
    y = depthwise_convolution(net.tape, image, filters, windows)
    return ops.reshape(net.tape, y, _places(x, windows, channels * multiplier))


def _batch_normalization(net: Network, layer: Any, inputs: list[Value]) -> Value:
    (x,) = inputs
    require(layer, renorm=False, axis=[len(x.shape) - 1])
    if getattr(layer, "synchronized", False) or layer.virtual_batch_size is not None:
        refuse(layer, "synchronized or virtual_batch_size", "neither")
    gamma = net.weight(layer, "gamma") if layer.scale else _constant(net.tape, 1.0, x.shape[-1])
    beta = net.weight(layer, "beta") if layer.center else _constant(net.tape, 0.0, x.shape[-1])
    mean, variance = net.weight(layer, "moving_mean"), net.weight(layer, "moving_variance")
    if not layer.trainable:
        return _normalize_as_moved(net.tape, x, (gamma, beta, mean, variance), layer.epsilon)
    y, moments = batch_normalization(
        net.tape, x, gamma, beta, net.examples, epsilon=layer.epsilon, unbiased=bool(layer.fused)
    )
    graph = net.tape.graph
    for variable, old, new in (
        (layer.moving_mean, mean, moments.mean),
        (layer.moving_variance, variance, moments.variance),
    ):
        moved = net.moved.get(variable.ref(), old.tensor)
        step = graph.multiply(graph.subtract(new, moved), 1.0 - layer.momentum)
        net.moved[variable.ref()] = graph.add(moved, step)
    return y


def _normalize_as_moved(tape: Tape, x: Value, weights: tuple[Value, Value, Value, Value], epsilon: float) -> Value:
    """Normalise as a frozen layer does: it uses the moving statistics and leaves them."""
    gamma, beta, mean, variance = weights
    graph = tape.graph
    precision = graph.rsqrt(graph.add(variance.tensor, epsilon))
    centered = ops.add(tape, x, tape.leaf(graph.multiply(mean.tensor, -1.0), differentiable=False))
    return ops.add(tape, ops.multiply(tape, ops.scale(tape, centered, precision), gamma), beta)


def _pooling(net: Network, layer: Any, inputs: list[Value]) -> Value:
    x = _as_image(net.tape, layer, inputs[0])
    windows = _windows(layer, x, layer.pool_size, layer.strides)
    pool = max_pool if isinstance(layer, (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D)) else average_pool
    return ops.reshape(net.tape, pool(net.tape, x, windows), _places(inputs[0], windows, x.shape[-1]))


def _global_average(net: Network, layer: Any, inputs: list[Value]) -> Value:
    places = math.prod(inputs[0].shape[1:-1])
    return ops.scale(net.tape, _over_places(net, layer, inputs[0], ops.sum_over), 1.0 / places)


def _global_max(net: Network, layer: Any, inputs: list[Value]) -> Value:
    return _over_places(net, layer, inputs[0], ops.max_over)


def _over_places(net: Network, layer: Any, x: Value, reduce: Callable[..., Value]) -> Value:
    flat = ops.reshape(net.tape, x, (x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]))
    return ops.reshape(net.tape, reduce(net.tape, flat, 1), layer.compute_output_shape(x.shape))


def _reshape(net: Network, layer: Any, inputs: list[Value]) -> Value:
    return ops.reshape(net.tape, inputs[0], tuple(layer.compute_output_shape(inputs[0].shape)))


def _zero_padding(net: Network, layer: Any, inputs: list[Value]) -> Value:
    (x,) = inputs
    pads = (layer.padding,) if len(x.shape) == 3 else layer.padding
    for axis, (before, after) in enumerate(pads, start=1):
        x = ops.pad(net.tape, x, axis, before, after)
    return x


def _rescaling(net: Network, layer: Any, inputs: list[Value]) -> Value:
    (x,) = inputs
    for name in ("scale", "offset"):
        shape = np.shape(getattr(layer, name))
        if shape not in ((), (1,), x.shape[-1:]):
            refuse(layer, f"{name} of shape {list(shape)}", "a number, or one for each channel")
    y = ops.scale(net.tape, x, _constant(net.tape, layer.scale, x.shape[-1]).tensor)
    return ops.add(net.tape, y, _constant(net.tape, layer.offset, x.shape[-1]))


def _dropout(net: Network, layer: Any, inputs: list[Value]) -> Value:
    (x,) = inputs
    require(layer, noise_shape=None)
    if not 0.0 < layer.rate < 1.0:
        return x
    graph = net.tape.graph
    kept = ops.is_positive(graph, graph.add(net.noise(x.shape), -layer.rate))
    return ops.scale(net.tape, x, graph.multiply(kept, 1.0 / (1.0 - layer.rate)))


def _add(net: Network, layer: Any, inputs: list[Value]) -> Value:
    total, *others = inputs
    for other in others:
        if other.shape != total.shape:
            refuse(layer, "repeating the smaller input", "inputs of equal shapes")
        total = ops.add(net.tape, total, other)
    return total


def _concatenate(net: Network, layer: Any, inputs: list[Value]) -> Value:
    axis = layer.axis % len(inputs[0].shape)
    if axis == 0:
        refuse(layer, "joining examples", "another axis")
    return ops.concatenate(net.tape, inputs, axis)


def _activation(net: Network, layer: Any, inputs: list[Value]) -> Value:
    return _activate(net, layer, inputs[0])


def _relu(net: Network, layer: Any, inputs: list[Value]) -> Value:
    require(layer, threshold=0.0)
    slope = float(layer.negative_slope)
    if layer.max_value is None:
        return ops.leaky_relu(net.tape, inputs[0], slope) if slope else ops.relu(net.tape, inputs[0])
    require(layer, max_value=6.0, negative_slope=0.0)
    return ops.relu6(net.tape, inputs[0])


def _leaky_relu(net: Network, layer: Any, inputs: list[Value]) -> Value:
    return ops.leaky_relu(net.tape, inputs[0], float(layer.alpha))


def _softmax(net: Network, layer: Any, inputs: list[Value]) -> Value:
    if layer.axis not in (-1, len(inputs[0].shape) - 1):
        refuse(layer, f"axis = {plain(layer.axis)}", "-1")
    return ops.softmax(net.tape, inputs[0])


def _finish(net: Network, layer: Any, y: Value) -> Value:
    """Bias and activation."""
    if layer.use_bias:
        y = ops.add(net.tape, y, net.weight(layer, "bias"))
    return _activate(net, layer, y)


def _activate(net: Network, layer: Any, x: Value) -> Value:
    function = _ACTIVATIONS.get(layer.activation)
    if function is None:
        refuse(
            layer,
            f"activation {getattr(layer.activation, '__name__', '?')}",
            "linear, relu, relu6, leaky_relu, tanh, sigmoid or softmax",
        )
    return function(net.tape, x)


def _product(tape: Tape, x: Value, kernel: Value) -> Value:
    """Each entry of the last axis times the matrix `kernel`."""
    rows = ops.reshape(tape, x, (x.tensor.size // x.shape[-1], x.shape[-1]))
    return ops.reshape(tape, ops.matmul(tape, rows, kernel), (*x.shape[:-1], kernel.shape[1]))


def _as_image(tape: Tape, layer: Any, x: Value) -> Value:
    """The image that `layer` moves its windows over; Keras would take more axes, as further examples."""
    axes = np.size(layer.strides) + 1
    if len(x.shape) != axes + 1:
        refuse(layer, f"an input of shape {list(x.shape[1:])}", f"one of {axes} axes")
    return ops.reshape(tape, x, (x.shape[0], 1, *x.shape[1:])) if len(x.shape) == 3 else x


def _windows(layer: Any, image: Value, size: Any, strides: Any) -> Windows:
    """Windows over `image`, of a layer's `size` and `strides`: for one axis or two."""
    size, strides = (tuple(map(int, np.atleast_1d(values))) for values in (size, strides))
    height, width = image.shape[1:3]
    rows = window(size[0], strides[0], height, layer.padding) if len(size) == 2 else window(1, 1, 1, "valid")
    return Windows(rows, window(size[-1], strides[-1], width, layer.padding))


def _places(x: Value, windows: Windows, channels: int) -> tuple[int, ...]:
    """The shape of an output: with rows where the input `x` has some."""
    rows = (windows.rows.out,) if len(x.shape) == 4 else ()
    return (x.shape[0], *rows, windows.columns.out, channels)


def _constant(tape: Tape, value: float | Sequence[float], size: int) -> Value:
    return tape.leaf(tape.graph.constant(np.full(size, value, np.float32)), differentiable=False)


_ACTIVATIONS: dict[Any, Callable[[Tape, Value], Value]] = {
    keras.activations.linear: lambda _, x: x,
    keras.activations.relu: ops.relu,
    keras.activations.tanh: ops.tanh,
    keras.activations.sigmoid: ops.sigmoid,
    keras.activations.softmax: ops.softmax,
    tf.nn.relu6: ops.relu6,
    tf.nn.leaky_relu: lambda tape, x: ops.leaky_relu(tape, x, 0.2),
}

_Rule = Callable[[Network, Any, list[Value]], Value]

_RULES: dict[type, _Rule] = {
    keras.layers.Activation: _activation,
    keras.layers.Add: _add,
    keras.layers.AveragePooling1D: _pooling,
    keras.layers.AveragePooling2D: _pooling,
    keras.layers.BatchNormalization: _batch_normalization,
    keras.layers.Concatenate: _concatenate,
    keras.layers.Conv1D: _convolution,
    keras.layers.Conv2D: _convolution,
    keras.layers.Dense: _dense,
    keras.layers.DepthwiseConv1D: _depthwise,
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.Dropout: _dropout,
    keras.layers.Flatten: _reshape,
    keras.layers.GlobalAveragePooling1D: _global_average,
    keras.layers.GlobalAveragePooling2D: _global_average,
    keras.layers.GlobalMaxPooling1D: _global_max,
    keras.layers.GlobalMaxPooling2D: _global_max,
    keras.layers.LeakyReLU: _leaky_relu,
    keras.layers.MaxPooling1D: _pooling,
    keras.layers.MaxPooling2D: _pooling,
    keras.layers.ReLU: _relu,
    keras.layers.Rescaling: _rescaling,
    keras.layers.Reshape: _reshape,
    keras.layers.SeparableConv1D: _separable,
    keras.layers.SeparableConv2D: _separable,
    keras.layers.Softmax: _softmax,
    keras.layers.ZeroPadding1D: _zero_padding,
    keras.layers.ZeroPadding2D: _zero_padding,
}
