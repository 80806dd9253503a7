"""The Keras layer that computes what a described layer says. Importing this module imports TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

from fedprune.keras.stack import keras, tf
from fedprune.network import layers as described
from fedprune.network.description import Penalty
from fedprune.network.layers import AnyLayer, Function, Shape, Statistic

Penalties = Mapping[str | None, Penalty]
"""Penalties by the names of tensors."""

_VALID_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")
"""The names that TensorFlow takes for scopes."""

_CELL = {"kernel": "cell.kernel", "recurrent": "cell.recurrent_kernel", "bias": "cell.bias"}
_ATTRIBUTES: dict[type, dict[str, str]] = {
    described.BatchNormalization: {
        "gamma": "gamma",
        "beta": "beta",
        "mean": "moving_mean",
        "variance": "moving_variance",
    },
    described.Convolution: {"kernel": "kernel", "bias": "bias"},
    described.Dense: {"kernel": "kernel", "bias": "bias"},
    described.DepthwiseConvolution: {"kernel": "depthwise_kernel", "bias": "bias"},
    described.Embedding: {"table": "embeddings"},
    described.GRU: _CELL,
    described.LSTM: _CELL,
    described.SimpleRNN: _CELL,
}
"""The attributes of Keras layers that hold the tensors of described ones."""


def make_layer(layer: AnyLayer, number: int, shape: Shape, penalties: Penalties, trainable: bool) -> Any:
    """The Keras layer, not yet built, for inputs of `shape`; layer `number` of its network."""
    name = layer.name if _VALID_NAME.fullmatch(layer.name) else f"layer.{number}"
    return _MAKERS[type(layer)](layer, shape, penalties)(name=name, trainable=trainable)


def variables_of(layer: AnyLayer, made: Any) -> dict[str, Any]:
    """The variables of the built Keras layer by the names of the tensors that they are."""
    attributes = _ATTRIBUTES.get(type(layer), {})
    names = {getattr(layer, name): attribute for name, attribute in attributes.items()}
    return {tensor: attrgetter(attribute)(made) for tensor, attribute in names.items() if tensor is not None}


_Maker = Callable[[Any, Shape, Penalties], Callable[..., Any]]


def _with(kind: Any, **settings: Any) -> Callable[..., Any]:
    return lambda **common: kind(**settings, **common)


def _dense(layer: described.Dense, _shape: Shape, penalties: Penalties) -> Callable[..., Any]:
    return _with(keras.layers.Dense, units=layer.units, **_weights("kernel", layer, penalties))


def _convolution(layer: described.Convolution, _shape: Shape, penalties: Penalties) -> Callable[..., Any]:
    kind = (keras.layers.Conv1D, keras.layers.Conv2D)[len(layer.size) - 1]
    return _with(kind, filters=layer.filters, **_windows(layer), **_weights("kernel", layer, penalties))


def _depthwise(layer: described.DepthwiseConvolution, _shape: Shape, penalties: Penalties) -> Callable[..., Any]:
    kind = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)[len(layer.size) - 1]
    weights = _weights("depthwise", layer, penalties)
    return _with(kind, depth_multiplier=layer.multiplier, **_windows(layer), **weights)


def _pooling(layer: described.Pooling, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    kind = _POOLINGS[layer.statistic][len(layer.size) - 1]
    return _with(kind, pool_size=layer.size, strides=layer.strides, padding=layer.padding.value)


def _global_pooling(layer: described.GlobalPooling, shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return _with(_GLOBAL_POOLINGS[layer.statistic][len(shape) - 2], keepdims=layer.keep_axes)


def _batch_normalization(
    layer: described.BatchNormalization, _shape: Shape, penalties: Penalties
) -> Callable[..., Any]:
    return _with(
        keras.layers.BatchNormalization,
        momentum=layer.momentum,
        epsilon=layer.epsilon,
        center=layer.beta is not None,
        scale=layer.gamma is not None,
        beta_regularizer=_regularizer(penalties.get(layer.beta)),
        gamma_regularizer=_regularizer(penalties.get(layer.gamma)),
        fused=layer.unbiased,
    )


def _reshape(layer: described.Reshape, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return _with(keras.layers.Reshape, target_shape=layer.shape)


def _zero_padding(layer: described.ZeroPadding, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    if len(layer.padding) == 1:
        return _with(keras.layers.ZeroPadding1D, padding=layer.padding[0])
    return _with(keras.layers.ZeroPadding2D, padding=layer.padding)


def _rescaling(layer: described.Rescaling, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    scale, offset = (numbers[0] if len(numbers) == 1 else list(numbers) for numbers in (layer.scale, layer.offset))
    return _with(keras.layers.Rescaling, scale=scale, offset=offset)


def _dropout(layer: described.Dropout, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return _with(keras.layers.Dropout, rate=layer.rate)


def _activation(layer: described.Activation, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    match layer.function:
        case Function.RELU6:
            return _with(keras.layers.ReLU, max_value=6.0)
        case Function.LEAKY_RELU:
            return _with(keras.layers.LeakyReLU, alpha=layer.slope)
        case function:
            return _with(keras.layers.Activation, activation=function.value)


def _add(_layer: described.Add, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return _with(keras.layers.Add)


def _concatenate(layer: described.Concatenate, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return _with(keras.layers.Concatenate, axis=layer.axis + 1)


def _embedding(layer: described.Embedding, _shape: Shape, penalties: Penalties) -> Callable[..., Any]:
    return _with(
        keras.layers.Embedding,
        input_dim=layer.vocabulary,
        output_dim=layer.units,
        embeddings_regularizer=_regularizer(penalties.get(layer.table)),
    )


def _recurrent(kind: Any) -> _Maker:
    def make(layer: described.Recurrent, _shape: Shape, penalties: Penalties) -> Callable[..., Any]:
        gru = {"reset_after": layer.reset_after} if isinstance(layer, described.GRU) else {}
        return _with(
            kind,
            units=layer.units,
            go_backwards=layer.backwards,
            return_sequences=layer.sequences,
            recurrent_regularizer=_regularizer(penalties.get(layer.recurrent)),
            **_weights("kernel", layer, penalties),
            **gru,
        )

    return make


def _reversal(_layer: described.Reversal, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return _with(keras.layers.Lambda, function=lambda x: tf.reverse(x, [1]))


def _windows(layer: described.Convolution | described.DepthwiseConvolution) -> dict[str, Any]:
    return {"kernel_size": layer.size, "strides": layer.strides, "padding": layer.padding.value}


def _weights(
    kernel: str,
    layer: described.Convolution | described.Dense | described.DepthwiseConvolution | described.Recurrent,
    penalties: Penalties,
) -> dict[str, Any]:
    return {
        "use_bias": layer.bias is not None,
        f"{kernel}_regularizer": _regularizer(penalties.get(layer.kernel)),
        "bias_regularizer": _regularizer(penalties.get(layer.bias)),
    }


def _regularizer(penalty: Penalty | None) -> Any:
    return None if penalty is None else keras.regularizers.L1L2(penalty.l1, penalty.l2)


_POOLINGS = {
    Statistic.MAX: (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D),
    Statistic.MEAN: (keras.layers.AveragePooling1D, keras.layers.AveragePooling2D),
}
_GLOBAL_POOLINGS = {
    Statistic.MAX: (keras.layers.GlobalMaxPooling1D, keras.layers.GlobalMaxPooling2D),
    Statistic.MEAN: (keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D),
}

_MAKERS: dict[type, _Maker] = {
    described.GRU: _recurrent(keras.layers.GRU),
    described.LSTM: _recurrent(keras.layers.LSTM),
    described.Activation: _activation,
    described.Add: _add,
    described.BatchNormalization: _batch_normalization,
    described.Concatenate: _concatenate,
    described.Convolution: _convolution,
    described.Dense: _dense,
    described.DepthwiseConvolution: _depthwise,
    described.Dropout: _dropout,
    described.Embedding: _embedding,
    described.GlobalPooling: _global_pooling,
    described.Pooling: _pooling,
    described.Rescaling: _rescaling,
    described.Reshape: _reshape,
    described.Reversal: _reversal,
    described.SimpleRNN: _recurrent(keras.layers.SimpleRNN),
    described.ZeroPadding: _zero_padding,
}
