"""The Keras layer that computes what a described layer says. Importing this module imports TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from fedprune.keras import activations
from fedprune.keras.stack import keras, tf
from fedprune.network import layers as described
from fedprune.network.description import Penalty
from fedprune.network.layers import AnyLayer, Function, Operation, Shape, Statistic

Penalties = Mapping[str | None, Penalty]
"""Penalties by the names of tensors."""

_VALID_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")
"""The names that TensorFlow takes for scopes."""

_CELL = {"kernel": "cell.kernel", "recurrent": "cell.recurrent_kernel", "bias": "cell.bias"}
_GAMMA_BETA = {"gamma": "gamma", "beta": "beta"}
_ATTRIBUTES: dict[type, dict[str, str]] = {
    described.BatchNormalization: _GAMMA_BETA | {"mean": "moving_mean", "variance": "moving_variance"},
    described.Convolution: {"kernel": "kernel", "bias": "bias"},
    described.Dense: {"kernel": "kernel", "bias": "bias"},
    described.DepthwiseConvolution: {"kernel": "depthwise_kernel", "bias": "bias"},
    described.Embedding: {"table": "embeddings"},
    described.GRU: _CELL,
    described.GroupNormalization: _GAMMA_BETA,
    described.LSTM: _CELL,
    described.LayerNormalization: _GAMMA_BETA,
    described.MultiHeadAttention: {
        f"{role}_{tensor}": f"_{role}_dense.{tensor}"
        for role in ("query", "key", "value", "output")
        for tensor in ("kernel", "bias")
    },
    described.SimpleRNN: _CELL,
    described.TransposedConvolution: {"kernel": "kernel", "bias": "bias"},
}
"""The attributes of Keras layers that hold the tensors of described ones."""


def make_layer(layer: AnyLayer, number: int, shape: Shape, penalties: Penalties, trainable: bool) -> Any:
    """The Keras layer, not yet built, for inputs of `shape`; layer `number` of its network."""
    name = layer.name if _VALID_NAME.fullmatch(layer.name) else f"layer.{number}"
    made = _MAKERS[type(layer)](layer, shape, penalties)(name=name, trainable=trainable)
    made.supports_masking = False  # what it returns has no mask of Keras' own
    return made


def call_layer(layer: AnyLayer, made: Any, inputs: Sequence[Any]) -> Any:
    """What the Keras layer makes of Keras tensors. Masks are handed in as such: nothing else in the model has one."""
    if isinstance(layer, described.MultiHeadAttention):
        query, value, key, *masks = layer.roles(inputs)
        seen = {"attention_mask": _attention_mask(*masks), "use_causal_mask": layer.causal}
        return made(query, value=value, key=key, **seen)  # TF-MOT's wrapper takes one input, and the others by name
    if isinstance(layer, described.Recurrent | described.GlobalPooling) and len(inputs) > 1:
        x, mask = inputs
        return made(x, mask=tf.cast(mask, tf.bool))
    return made(list(inputs) if len(inputs) > 1 else inputs[0])


def _attention_mask(queries: Any | None, keys: Any | None) -> Any | None:
    """Keras' mask of pairs of places, of the masks of queries `[batch, T]` and of keys `[batch, S]`:
    `[batch, T or 1, S or 1]`."""
    masks = [(queries, 2), (keys, 1)]
    given = [tf.expand_dims(tf.cast(mask, tf.bool), axis) for mask, axis in masks if mask is not None]
    return tf.logical_and(*given) if len(given) == 2 else next(iter(given), None)


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
    return _with(
        kind, filters=layer.filters, groups=layer.groups, **_windows(layer), **_weights("kernel", layer, penalties)
    )


def _transposed(layer: described.TransposedConvolution, _shape: Shape, penalties: Penalties) -> Callable[..., Any]:
    kind = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose)[len(layer.size) - 1]
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
        fused=layer.unbiased,
        **_scale_and_shift(layer, penalties),
    )


def _layer_normalization(layer: described.LayerNormalization, shape: Shape, penalties: Penalties) -> Callable[..., Any]:
    axes = list(range(len(shape) + 1 - layer.axes, len(shape) + 1))
    settings = _scale_and_shift(layer, penalties)
    return _with(keras.layers.LayerNormalization, axis=axes, epsilon=layer.epsilon, **settings)


def _group_normalization(
    layer: described.GroupNormalization, _shape: Shape, penalties: Penalties
) -> Callable[..., Any]:
    settings = _scale_and_shift(layer, penalties)
    return _with(keras.layers.GroupNormalization, groups=layer.groups, epsilon=layer.epsilon, **settings)


def _unit_normalization(
    _layer: described.UnitNormalization, _shape: Shape, _penalties: Penalties
) -> Callable[..., Any]:
    return _with(keras.layers.UnitNormalization)


def _reshape(layer: described.Reshape, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return _with(keras.layers.Reshape, target_shape=layer.shape)


def _zero_padding(layer: described.ZeroPadding, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    if len(layer.padding) == 1:
        return _with(keras.layers.ZeroPadding1D, padding=layer.padding[0])
    return _with(keras.layers.ZeroPadding2D, padding=layer.padding)


def _cropping(layer: described.Cropping, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    if len(layer.cropping) == 1:
        return _with(keras.layers.Cropping1D, cropping=layer.cropping[0])
    return _with(keras.layers.Cropping2D, cropping=layer.cropping)


def _upsampling(layer: described.Upsampling, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    if len(layer.size) == 1:
        return _with(keras.layers.UpSampling1D, size=layer.size[0])
    interpolation = "bilinear" if layer.bilinear else "nearest"
    return _with(keras.layers.UpSampling2D, size=layer.size, interpolation=interpolation)


def _permute(layer: described.Permute, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return _with(keras.layers.Permute, dims=tuple(axis + 1 for axis in layer.axes))


def _rescaling(layer: described.Rescaling, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    scale, offset = (numbers[0] if len(numbers) == 1 else list(numbers) for numbers in (layer.scale, layer.offset))
    return _with(keras.layers.Rescaling, scale=scale, offset=offset)


def _dropout(layer: described.Dropout, shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    if not layer.whole_channels:
        return _with(keras.layers.Dropout, rate=layer.rate)
    noise_shape = (None, *(1 for _ in shape[:-1]), shape[-1])
    return _with(keras.layers.Dropout, rate=layer.rate, noise_shape=noise_shape)


def _gaussian_noise(layer: described.GaussianNoise, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    if not layer.relative:
        return _with(keras.layers.GaussianNoise, stddev=layer.deviation)
    square = layer.deviation**2
    return _with(keras.layers.GaussianDropout, rate=square / (1.0 + square))


def _activation(layer: described.Activation, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    match layer.function:
        case Function.RELU6:
            return _with(keras.layers.ReLU, max_value=6.0)
        case Function.LEAKY_RELU:
            return _with(keras.layers.LeakyReLU, alpha=layer.slope)
        case Function.ELU:
            return _with(keras.layers.ELU, alpha=layer.slope)
        case function:
            return _with(keras.layers.Activation, activation=_UNNAMED.get(function, function.value))


def _add(_layer: described.Add, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return _with(keras.layers.Add)


def _attention(layer: described.MultiHeadAttention, _shape: Shape, penalties: Penalties) -> Callable[..., Any]:
    """Keras has one regularizer for all kernels, and one for all biases."""
    kernels = (layer.query_kernel, layer.key_kernel, layer.value_kernel, layer.output_kernel)
    biases = (layer.query_bias, layer.key_bias, layer.value_bias, layer.output_bias)
    regularizers = []
    for tensors in (kernels, biases):
        own = [penalties.get(tensor) for tensor in tensors]
        if len({penalty and (penalty.l1, penalty.l2) for penalty in own}) > 1:
            layer.refuse("has penalties of some kernels or biases, and not the same of all")
        regularizers.append(_regularizer(own[0]))
    return _with(
        keras.layers.MultiHeadAttention,
        num_heads=layer.heads,
        key_dim=layer.key_size,
        value_dim=layer.value_size,
        output_shape=layer.units,
        dropout=layer.rate,
        use_bias=layer.query_bias is not None,
        kernel_regularizer=regularizers[0],
        bias_regularizer=regularizers[1],
    )


def _merge(layer: described.Merge, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return _with(_MERGES[layer.operation])


def _dot(layer: described.Dot, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return _with(keras.layers.Dot, axes=tuple(axis + 1 for axis in layer.axes))


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
            zero_output_for_mask=layer.zero_masked,
            recurrent_regularizer=_regularizer(penalties.get(layer.recurrent)),
            **_weights("kernel", layer, penalties),
            **gru,
        )

    return make


def _reversal(_layer: described.Reversal, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return _with(keras.layers.Lambda, function=lambda x: tf.reverse(x, [1]))


def _id_mask(_layer: described.IdMask, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    return _with(keras.layers.Lambda, function=lambda ids: tf.cast(tf.not_equal(ids, 0), tf.float32))


def _step_mask(layer: described.StepMask, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    def mask(x: Any) -> Any:
        return tf.cast(tf.reduce_any(tf.not_equal(x, layer.padding), -1), tf.float32)

    return _with(keras.layers.Lambda, function=mask)


def _windows(layer: described.Windowed) -> dict[str, Any]:
    windows: dict[str, Any] = {"kernel_size": layer.size, "strides": layer.strides, "padding": layer.padding.value}
    if isinstance(layer, described.Dilated) and layer.is_dilated:
        windows["dilation_rate"] = layer.dilation
    return windows


def _weights(
    kernel: str,
    layer: described.Convolution
    | described.Dense
    | described.DepthwiseConvolution
    | described.Recurrent
    | described.TransposedConvolution,
    penalties: Penalties,
) -> dict[str, Any]:
    return {
        "use_bias": layer.bias is not None,
        f"{kernel}_regularizer": _regularizer(penalties.get(layer.kernel)),
        "bias_regularizer": _regularizer(penalties.get(layer.bias)),
    }


def _scale_and_shift(
    layer: described.BatchNormalization | described.GroupNormalization | described.LayerNormalization,
    penalties: Penalties,
) -> dict[str, Any]:
    return {
        "center": layer.beta is not None,
        "scale": layer.gamma is not None,
        "beta_regularizer": _regularizer(penalties.get(layer.beta)),
        "gamma_regularizer": _regularizer(penalties.get(layer.gamma)),
    }


def _regularizer(penalty: Penalty | None) -> Any:
    return None if penalty is None else keras.regularizers.L1L2(penalty.l1, penalty.l2)


_UNNAMED = {
    Function.GELU_TANH: activations.gelu_tanh,
    Function.HARD_SIGMOID: activations.hard_sigmoid,
    Function.HARD_SWISH: activations.hard_swish,
}
"""Functions that tf_keras has no name for, or another function under that name."""

_POOLINGS = {
    Statistic.MAX: (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D),
    Statistic.MEAN: (keras.layers.AveragePooling1D, keras.layers.AveragePooling2D),
}
_GLOBAL_POOLINGS = {
    Statistic.MAX: (keras.layers.GlobalMaxPooling1D, keras.layers.GlobalMaxPooling2D),
    Statistic.MEAN: (keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D),
}

_MERGES = {
    Operation.MULTIPLY: keras.layers.Multiply,
    Operation.MAXIMUM: keras.layers.Maximum,
    Operation.MINIMUM: keras.layers.Minimum,
}

_MAKERS: dict[type, _Maker] = {
    described.GRU: _recurrent(keras.layers.GRU),
    described.LSTM: _recurrent(keras.layers.LSTM),
    described.Activation: _activation,
    described.Add: _add,
    described.BatchNormalization: _batch_normalization,
    described.Concatenate: _concatenate,
    described.Convolution: _convolution,
    described.Cropping: _cropping,
    described.Dense: _dense,
    described.DepthwiseConvolution: _depthwise,
    described.Dot: _dot,
    described.Dropout: _dropout,
    described.Embedding: _embedding,
    described.GaussianNoise: _gaussian_noise,
    described.GlobalPooling: _global_pooling,
    described.GroupNormalization: _group_normalization,
    described.IdMask: _id_mask,
    described.LayerNormalization: _layer_normalization,
    described.Merge: _merge,
    described.MultiHeadAttention: _attention,
    described.Permute: _permute,
    described.Pooling: _pooling,
    described.Rescaling: _rescaling,
    described.Reshape: _reshape,
    described.Reversal: _reversal,
    described.SimpleRNN: _recurrent(keras.layers.SimpleRNN),
    described.StepMask: _step_mask,
    described.TransposedConvolution: _transposed,
    described.UnitNormalization: _unit_normalization,
    described.Upsampling: _upsampling,
    described.ZeroPadding: _zero_padding,
}
