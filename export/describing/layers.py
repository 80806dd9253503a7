"""Readers of Keras layers: what each becomes in the description. Importing this module imports TensorFlow.

A reader takes the draft, the layer and the values that it is called with, and returns the value that it makes. All
settings that change what a layer computes are read or required; what is not listed is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from export.describing.draft import Draft
from export.describing.refusal import plain, refuse, require
from export.describing.sequences import sequence_readers
from fedprune.keras import activations
from fedprune.keras.stack import keras, tf
from fedprune.network import layers as network
from fedprune.network.layers import Function, Operation, Padding, Statistic

Reader = Callable[[Draft, Any, list[int]], int]

DEFAULT_SLOPE = 0.2
"""The slope of TensorFlow's leaky_relu below 0."""
_HARDER = 1.2
"""The slope of tf_keras' hard_sigmoid is 0.2, that of Keras 3's and ours 1/6."""


NOISY = (keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.GaussianNoise)
"""Layers that draw noise in training, and do nothing otherwise."""


def check_common(layer: Any) -> None:
    """Raise `TaskError` for settings that any Keras layer may have, and no description."""
    require(layer, compute_dtype="float32")
    if hasattr(layer, "data_format"):
        require(layer, data_format="channels_last")
    for name, value in (vars(layer) | vars(getattr(layer, "cell", layer))).items():
        if name.endswith("_constraint") and value is not None:
            refuse(layer, name, "none")
    if getattr(layer, "activity_regularizer", None) is not None:
        refuse(layer, "activity_regularizer", "a regularizer of its weights")


def activate(draft: Draft, layer: Any, x: int, function: Any) -> int:
    """The value that Keras' activation `function` makes of `x`."""
    known = _ACTIVATIONS.get(function) if callable(function) else None
    if function is keras.activations.linear or function is tf.identity:
        return x
    if known is None:
        name = getattr(function, "__name__", type(function).__name__)
        refuse(layer, f"activation {name[:40]}", f"one of these: linear, {', '.join(Function)}")
    if function is keras.activations.hard_sigmoid:
        x = rescale(draft, layer, x, _HARDER, 0.0, part="steeper")
    part = "" if isinstance(layer, keras.layers.Activation) else known.value
    slope = {Function.LEAKY_RELU: DEFAULT_SLOPE, Function.ELU: 1.0}.get(known, 0.0)
    return draft.add(layer, network.Activation, x, part=part, function=known, slope=slope)


def leaky(draft: Draft, layer: Any, x: int, slope: float) -> int:
    """ReLU with a slope below 0."""
    if not 0.0 <= slope <= 1.0:
        refuse(layer, f"a slope of {plain(slope)}", "one from 0 to 1")
    function = Function.LEAKY_RELU if slope else Function.RELU
    return draft.add(layer, network.Activation, x, function=function, slope=slope)


def rescale(draft: Draft, layer: Any, x: int, scale: Any, offset: Any, part: str = "") -> int:
    """`x` times `scale`, plus `offset`: each a number, or one for each channel."""
    numbers = {}
    for name, found in (("scale", scale), ("offset", offset)):
        array = np.asarray(found, np.float64)
        if array.size > 1:
            # What Keras would stretch along other axes than that of channels is no number for each channel.
            array = array.reshape(array.shape[[*(size > 1 for size in array.shape), True].index(True) :])
        if array.size != 1 and array.shape != draft.shape(x)[-1:]:
            refuse(layer, f"{name} of shape {list(np.shape(found))}", "a number, or one for each channel")
        numbers[name] = tuple(map(float, array.ravel()))
    return draft.add(layer, network.Rescaling, x, part=part, **numbers)


def _dense(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    y = draft.add(
        layer, network.Dense, x, units=layer.units, kernel=draft.tensor(layer, "kernel"), bias=_bias(draft, layer)
    )
    return activate(draft, layer, y, layer.activation)


def _convolution(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    y = draft.add(
        layer,
        network.Convolution,
        x,
        filters=layer.filters,
        groups=layer.groups,
        kernel=draft.tensor(layer, "kernel"),
        bias=_bias(draft, layer),
        **_windows(layer, layer.kernel_size),
    )
    return activate(draft, layer, y, layer.activation)


def _transposed(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    require(layer, output_padding=None, dilation_rate=(1,) * len(layer.kernel_size))
    y = draft.add(
        layer,
        network.TransposedConvolution,
        x,
        filters=layer.filters,
        kernel=draft.tensor(layer, "kernel"),
        bias=_bias(draft, layer),
        **_windows(layer, layer.kernel_size),
    )
    return activate(draft, layer, y, layer.activation)


def _depthwise(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    y = _each_channel(draft, layer, x, part="", bias=_bias(draft, layer))
    return activate(draft, layer, y, layer.activation)


def _separable(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    y = _each_channel(draft, layer, x, part="depthwise", bias=None)
    once = (1,) * len(layer.kernel_size)
    y = draft.add(
        layer,
        network.Convolution,
        y,
        part="pointwise",
        filters=layer.filters,
        kernel=draft.tensor(layer, "pointwise_kernel"),
        bias=_bias(draft, layer),
        size=once,
        strides=once,
    )
    return activate(draft, layer, y, layer.activation)


def _each_channel(draft: Draft, layer: Any, x: int, part: str, bias: str | None) -> int:
    return draft.add(
        layer,
        network.DepthwiseConvolution,
        x,
        part=part,
        multiplier=layer.depth_multiplier,
        kernel=draft.tensor(layer, "depthwise_kernel"),
        bias=bias,
        **_windows(layer, layer.kernel_size),
    )


def _batch_normalization(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    require(layer, renorm=False, axis=[len(draft.shape(x))])
    if getattr(layer, "synchronized", False) or layer.virtual_batch_size is not None or layer.adjustment is not None:
        refuse(layer, "synchronized, virtual_batch_size or adjustment", "none of them")
    return draft.add(
        layer,
        network.BatchNormalization,
        x,
        momentum=float(layer.momentum),
        unbiased=bool(layer.fused),
        **_scale_and_shift(draft, layer),
        mean=draft.tensor(layer, "moving_mean"),
        variance=draft.tensor(layer, "moving_variance"),
    )


def _layer_normalization(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    rank = len(draft.shape(x)) + 1
    axes = sorted(axis % rank for axis in np.atleast_1d(layer.axis).tolist())
    if axes != list(range(rank - len(axes), rank)) or axes[0] == 0:
        refuse(layer, f"axis = {plain(axes)}", "the last axis, or several last ones")
    return draft.add(layer, network.LayerNormalization, x, axes=len(axes), **_scale_and_shift(draft, layer))


def _group_normalization(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    channels = draft.shape(x)[-1]
    if layer.axis not in (-1, len(draft.shape(x))):
        refuse(layer, f"axis = {plain(layer.axis)}", "-1")
    groups = channels if layer.groups == -1 else layer.groups
    return draft.add(layer, network.GroupNormalization, x, groups=groups, **_scale_and_shift(draft, layer))


def _scale_and_shift(draft: Draft, layer: Any) -> dict[str, Any]:
    return {
        "epsilon": float(layer.epsilon),
        "gamma": draft.tensor(layer, "gamma") if layer.scale else None,
        "beta": draft.tensor(layer, "beta") if layer.center else None,
    }


def _unit_normalization(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    if list(np.atleast_1d(layer.axis)) not in ([-1], [len(draft.shape(x))]):
        refuse(layer, f"axis = {plain(layer.axis)}", "-1")
    return draft.add(layer, network.UnitNormalization, x)


def _pooling(statistic: Statistic) -> Reader:
    def read(draft: Draft, layer: Any, inputs: list[int]) -> int:
        windows = _windows(layer, layer.pool_size)
        return draft.add(layer, network.Pooling, *inputs, statistic=statistic, **windows)

    return read


def _global_pooling(statistic: Statistic) -> Reader:
    def read(draft: Draft, layer: Any, inputs: list[int]) -> int:
        return draft.add(layer, network.GlobalPooling, *inputs, statistic=statistic, keep_axes=bool(layer.keepdims))

    return read


def _reshape(draft: Draft, layer: Any, inputs: list[int]) -> int:
    """The shape that Keras says the layer makes."""
    (x,) = inputs
    shape = tuple(layer.compute_output_shape((None, *draft.shape(x))))[1:]
    return x if shape == draft.shape(x) else draft.add(layer, network.Reshape, x, shape=shape)


def _zero_padding(draft: Draft, layer: Any, inputs: list[int]) -> int:
    padding = np.reshape(layer.padding, (-1, 2)).tolist()
    return draft.add(layer, network.ZeroPadding, *inputs, padding=tuple(map(tuple, padding)))


def _cropping(draft: Draft, layer: Any, inputs: list[int]) -> int:
    cropping = np.reshape(layer.cropping, (-1, 2)).tolist()
    return draft.add(layer, network.Cropping, *inputs, cropping=tuple(map(tuple, cropping)))


def _upsampling(draft: Draft, layer: Any, inputs: list[int]) -> int:
    if getattr(layer, "interpolation", "nearest") != "nearest":
        refuse(layer, f"interpolation = {plain(layer.interpolation)}", "'nearest'")
    return draft.add(layer, network.Upsampling, *inputs, size=tuple(np.atleast_1d(layer.size).tolist()))


def _repeat_vector(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    row = draft.add(layer, network.Reshape, x, part="row", shape=(1, *draft.shape(x)))
    return draft.add(layer, network.Upsampling, row, size=(layer.n,))


def _permute(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return draft.add(layer, network.Permute, *inputs, axes=tuple(axis - 1 for axis in layer.dims))


def _rescaling(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    return rescale(draft, layer, x, layer.scale, layer.offset)


def _normalization(draft: Draft, layer: Any, inputs: list[int]) -> int:
    """With a given mean and variance: (x - mean) / the standard deviation, which is no less than Keras' epsilon.

    Or inverted: x times the standard deviation, plus the mean.
    """
    (x,) = inputs
    deviation = np.maximum(np.sqrt(np.asarray(layer.variance)), keras.backend.epsilon())
    if layer.invert:
        return rescale(draft, layer, x, deviation, layer.mean)
    centered = rescale(draft, layer, x, 1.0, -np.asarray(layer.mean), part="center")
    return rescale(draft, layer, centered, 1.0 / deviation, 0.0, part="scale")


def _dropout(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    require(layer, noise_shape=None)
    if not 0.0 <= layer.rate < 1.0:
        refuse(layer, f"rate = {plain(layer.rate)}", "one from 0 to below 1")
    whole = isinstance(layer, keras.layers.SpatialDropout1D | keras.layers.SpatialDropout2D)
    return draft.add(layer, network.Dropout, x, rate=float(layer.rate), whole_channels=whole) if layer.rate else x


def _gaussian_noise(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return draft.add(layer, network.GaussianNoise, *inputs, deviation=float(layer.stddev))


def _gaussian_dropout(draft: Draft, layer: Any, inputs: list[int]) -> int:
    if not 0.0 <= layer.rate < 1.0:
        refuse(layer, f"rate = {plain(layer.rate)}", "one from 0 to below 1")
    deviation = float(np.sqrt(layer.rate / (1.0 - layer.rate)))
    return draft.add(layer, network.GaussianNoise, *inputs, deviation=deviation, relative=True)


def _identity(_draft: Draft, _layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    return x


def _add(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return draft.add(layer, network.Add, *inputs) if len(inputs) > 1 else inputs[0]


def _subtract(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return subtract(draft, layer, *inputs)


def subtract(draft: Draft, layer: Any, x: int, y: int) -> int:
    """`x` less `y`, two values."""
    return draft.add(layer, network.Add, x, rescale(draft, layer, y, -1.0, 0.0, part="negative"))


def attend(draft: Draft, layer: Any, inputs: list[int], *, causal: bool, training: bool | None) -> int:
    """Attention of queries, values, and keys if there are others."""
    if layer._attention_axes not in (None, (1,)):
        refuse(layer, f"attention_axes = {plain(layer._attention_axes)}", "queries of two axes and None")
    tensors: dict[str, Any] = {}
    for role in ("query", "key", "value", "output"):
        part = getattr(layer, f"_{role}_dense")
        tensors[f"{role}_kernel"] = draft.tensor(part, "kernel")
        tensors[f"{role}_bias"] = draft.tensor(part, "bias") if layer._use_bias else None
    return draft.add(
        layer,
        network.MultiHeadAttention,
        *inputs,
        heads=layer._num_heads,
        key_size=layer._key_dim,
        value_size=layer._value_dim,
        units=layer._output_dense.kernel.shape[-1],
        causal=causal,
        rate=0.0 if training is False else float(layer._dropout),
        **tensors,
    )


def _merge(operation: Operation) -> Reader:
    def read(draft: Draft, layer: Any, inputs: list[int]) -> int:
        return draft.add(layer, network.Merge, *inputs, operation=operation) if len(inputs) > 1 else inputs[0]

    return read


def _dot(draft: Draft, layer: Any, inputs: list[int]) -> int:
    given = layer.axes if isinstance(layer.axes, list | tuple) else [layer.axes] * len(inputs)
    ranks = [len(draft.shape(x)) + 1 for x in inputs]
    axes = [axis % rank for axis, rank in zip(given, ranks, strict=True)]
    if 0 in axes:
        refuse(layer, "a product over examples", "other axes")
    if layer.normalize:
        if any(axis != rank - 1 for axis, rank in zip(axes, ranks, strict=True)):
            refuse(layer, "normalize = True over other axes than the last", "UnitNormalization before it")
        inputs = [draft.add(layer, network.UnitNormalization, x, part=f"unit{i}") for i, x in enumerate(inputs)]
    return draft.add(layer, network.Dot, *inputs, axes=tuple(axis - 1 for axis in axes))


def _average(draft: Draft, layer: Any, inputs: list[int]) -> int:
    total = draft.add(layer, network.Add, *inputs, part="sum") if len(inputs) > 1 else inputs[0]
    return rescale(draft, layer, total, 1.0 / len(inputs), 0.0)


def _concatenate(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return concatenate(draft, layer, inputs, layer.axis)


def concatenate(draft: Draft, layer: Any, inputs: list[int], axis: int) -> int:
    """Values side by side along Keras' `axis`, which counts the batch."""
    rank = len(draft.shape(inputs[0])) + 1
    if axis % rank == 0:
        refuse(layer, "joining examples", "another axis")
    return draft.add(layer, network.Concatenate, *inputs, axis=axis % rank - 1) if len(inputs) > 1 else inputs[0]


def _activation(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    return activate(draft, layer, x, layer.activation)


def _relu(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    require(layer, threshold=0.0)
    if layer.max_value is None:
        return leaky(draft, layer, x, float(layer.negative_slope))
    require(layer, max_value=6.0, negative_slope=0.0)
    return draft.add(layer, network.Activation, x, function=Function.RELU6)


def _elu(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    return draft.add(layer, network.Activation, x, function=Function.ELU, slope=float(layer.alpha))


def _leaky_relu(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    return leaky(draft, layer, x, float(layer.alpha))


def _softmax(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    if layer.axis not in (-1, len(draft.shape(x))):
        refuse(layer, f"axis = {plain(layer.axis)}", "-1")
    return draft.add(layer, network.Activation, x, function=Function.SOFTMAX)


def _bias(draft: Draft, layer: Any) -> str | None:
    return draft.tensor(layer, "bias") if layer.use_bias else None


def _windows(layer: Any, size: Any) -> dict[str, Any]:
    """A layer's windows: along one axis Keras has numbers or tuples of one."""
    size, strides = (tuple(map(int, np.atleast_1d(values))) for values in (size, layer.strides))
    windows = {"size": size, "strides": strides, "padding": Padding(layer.padding)}
    dilation = tuple(map(int, np.atleast_1d(getattr(layer, "dilation_rate", 1))))
    return windows | {"dilation": dilation} if max(dilation) > 1 else windows


def _read(draft: Draft, layer: Any, inputs: list[int]) -> int:
    """A layer within a wrapper, by its own reader."""
    check_common(layer)
    return LAYERS[type(layer)](draft, layer, inputs)


_ACTIVATIONS: dict[Any, Function] = {
    activations.gelu_tanh: Function.GELU_TANH,
    activations.hard_sigmoid: Function.HARD_SIGMOID,
    activations.hard_swish: Function.HARD_SWISH,
    keras.activations.elu: Function.ELU,
    keras.activations.gelu: Function.GELU,
    keras.activations.hard_sigmoid: Function.HARD_SIGMOID,
    keras.activations.relu: Function.RELU,
    keras.activations.selu: Function.SELU,
    keras.activations.sigmoid: Function.SIGMOID,
    keras.activations.softmax: Function.SOFTMAX,
    keras.activations.softplus: Function.SOFTPLUS,
    keras.activations.softsign: Function.SOFTSIGN,
    keras.activations.swish: Function.SWISH,
    keras.activations.tanh: Function.TANH,
    tf.nn.elu: Function.ELU,
    tf.nn.gelu: Function.GELU,
    tf.nn.leaky_relu: Function.LEAKY_RELU,
    tf.nn.relu: Function.RELU,
    tf.nn.relu6: Function.RELU6,
    tf.nn.selu: Function.SELU,
    tf.nn.sigmoid: Function.SIGMOID,
    tf.nn.silu: Function.SWISH,
    tf.nn.softmax: Function.SOFTMAX,
    tf.nn.softplus: Function.SOFTPLUS,
    tf.nn.softsign: Function.SOFTSIGN,
    tf.nn.tanh: Function.TANH,
}

LAYERS: dict[type, Reader] = {
    **sequence_readers(_read, _reshape),
    keras.layers.Activation: _activation,
    keras.layers.Add: _add,
    keras.layers.Average: _average,
    keras.layers.AveragePooling1D: _pooling(Statistic.MEAN),
    keras.layers.AveragePooling2D: _pooling(Statistic.MEAN),
    keras.layers.BatchNormalization: _batch_normalization,
    keras.layers.Concatenate: _concatenate,
    keras.layers.Conv1D: _convolution,
    keras.layers.Conv1DTranspose: _transposed,
    keras.layers.Conv2D: _convolution,
    keras.layers.Conv2DTranspose: _transposed,
    keras.layers.Cropping1D: _cropping,
    keras.layers.Cropping2D: _cropping,
    keras.layers.Dense: _dense,
    keras.layers.DepthwiseConv1D: _depthwise,
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.Dot: _dot,
    keras.layers.Dropout: _dropout,
    keras.layers.ELU: _elu,
    keras.layers.Flatten: _reshape,
    keras.layers.GaussianDropout: _gaussian_dropout,
    keras.layers.GaussianNoise: _gaussian_noise,
    keras.layers.GlobalAveragePooling1D: _global_pooling(Statistic.MEAN),
    keras.layers.GlobalAveragePooling2D: _global_pooling(Statistic.MEAN),
    keras.layers.GlobalMaxPooling1D: _global_pooling(Statistic.MAX),
    keras.layers.GlobalMaxPooling2D: _global_pooling(Statistic.MAX),
    keras.layers.GroupNormalization: _group_normalization,
    keras.layers.Identity: _identity,
    keras.layers.LayerNormalization: _layer_normalization,
    keras.layers.LeakyReLU: _leaky_relu,
    keras.layers.MaxPooling1D: _pooling(Statistic.MAX),
    keras.layers.MaxPooling2D: _pooling(Statistic.MAX),
    keras.layers.Maximum: _merge(Operation.MAXIMUM),
    keras.layers.Minimum: _merge(Operation.MINIMUM),
    keras.layers.Multiply: _merge(Operation.MULTIPLY),
    keras.layers.Normalization: _normalization,
    keras.layers.Permute: _permute,
    keras.layers.ReLU: _relu,
    keras.layers.RepeatVector: _repeat_vector,
    keras.layers.Rescaling: _rescaling,
    keras.layers.Reshape: _reshape,
    keras.layers.SeparableConv1D: _separable,
    keras.layers.SeparableConv2D: _separable,
    keras.layers.Softmax: _softmax,
    keras.layers.SpatialDropout1D: _dropout,
    keras.layers.SpatialDropout2D: _dropout,
    keras.layers.Subtract: _subtract,
    keras.layers.UnitNormalization: _unit_normalization,
    keras.layers.UpSampling1D: _upsampling,
    keras.layers.UpSampling2D: _upsampling,
    keras.layers.ZeroPadding1D: _zero_padding,
    keras.layers.ZeroPadding2D: _zero_padding,
}
"""The readers. To add a layer: its kind in `fedprune.network.layers`, a reader here, a builder in
`fedprune.keras.layers`, and a rule of the graph writer."""
