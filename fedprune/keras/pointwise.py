"""Layers that take each number by itself, read and made; activations also within other layers, and noise.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fedprune.keras import activations
from fedprune.keras.draft import Draft
from fedprune.keras.layer import Family, Maker, Masks, Penalties, Reader
from fedprune.keras.refusal import plain, refuse, require
from fedprune.keras.stack import keras, tf
from fedprune.network.layers import Activation, Dropout, Function, GaussianNoise, Rescaling, Shape

NOISY = (keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.GaussianNoise)
"""Layers that draw noise in training, and do nothing otherwise. So does augmentation."""
DEFAULT_SLOPE = 0.2
"""The slope of TensorFlow's leaky_relu below 0."""
_HARDER = 1.2
"""The slope of tf_keras' hard_sigmoid is 0.2, that of Keras 3's and ours 1/6."""


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
    return draft.add(layer, Activation, x, part=part, function=known, slope=slope)


def leaky(draft: Draft, layer: Any, x: int, slope: float) -> int:
    """ReLU with a slope below 0."""
    if not 0.0 <= slope <= 1.0:
        refuse(layer, f"a slope of {plain(slope)}", "one from 0 to 1")
    function = Function.LEAKY_RELU if slope else Function.RELU
    return draft.add(layer, Activation, x, function=function, slope=slope)


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
    return draft.add(layer, Rescaling, x, part=part, **numbers)


def _read_activation(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    return activate(draft, layer, x, layer.activation)


def _read_relu(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    require(layer, threshold=0.0)
    if layer.max_value is None:
        return leaky(draft, layer, x, float(layer.negative_slope))
    require(layer, max_value=6.0, negative_slope=0.0)
    return draft.add(layer, Activation, x, function=Function.RELU6)


def _read_elu(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    return draft.add(layer, Activation, x, function=Function.ELU, slope=float(layer.alpha))


def _read_leaky_relu(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    return leaky(draft, layer, x, float(layer.alpha))


def _read_softmax(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    if layer.axis not in (-1, len(draft.shape(x))):
        refuse(layer, f"axis = {plain(layer.axis)}", "-1")
    return draft.add(layer, Activation, x, function=Function.SOFTMAX)


def _make_activation(layer: Activation, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    match layer.function:
        case Function.RELU6:
            return partial(keras.layers.ReLU, max_value=6.0)
        case Function.LEAKY_RELU:
            return partial(keras.layers.LeakyReLU, alpha=layer.slope)
        case Function.ELU:
            return partial(keras.layers.ELU, alpha=layer.slope)
        case function:
            return partial(keras.layers.Activation, activation=_UNNAMED.get(function, function.value))


def _read_identity(_draft: Draft, _layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    return x


def _read_rescaling(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    return rescale(draft, layer, x, layer.scale, layer.offset)


def _read_normalization(draft: Draft, layer: Any, inputs: list[int]) -> int:
    """With a given mean and variance: (x - mean) / the standard deviation, which is no less than Keras' epsilon.

    Or inverted: x times the standard deviation, plus the mean.
    """
    (x,) = inputs
    deviation = np.maximum(np.sqrt(np.asarray(layer.variance)), keras.backend.epsilon())
    if layer.invert:
        return rescale(draft, layer, x, deviation, layer.mean)
    centered = rescale(draft, layer, x, 1.0, -np.asarray(layer.mean), part="center")
    return rescale(draft, layer, centered, 1.0 / deviation, 0.0, part="scale")


def _make_rescaling(layer: Rescaling, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    scale, offset = (numbers[0] if len(numbers) == 1 else list(numbers) for numbers in (layer.scale, layer.offset))
    return partial(keras.layers.Rescaling, scale=scale, offset=offset)


def _read_dropout(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    require(layer, noise_shape=None)
    _check_rate(layer)
    whole = isinstance(layer, keras.layers.SpatialDropout1D | keras.layers.SpatialDropout2D)
    return draft.add(layer, Dropout, x, rate=float(layer.rate), whole_channels=whole) if layer.rate else x


def _make_dropout(layer: Dropout, shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    if not layer.whole_channels:
        return partial(keras.layers.Dropout, rate=layer.rate)
    noise_shape = (None, *(1 for _ in shape[:-1]), shape[-1])
    return partial(keras.layers.Dropout, rate=layer.rate, noise_shape=noise_shape)


def _read_gaussian_noise(draft: Draft, layer: Any, inputs: list[int]) -> int:
    return draft.add(layer, GaussianNoise, *inputs, deviation=float(layer.stddev))


def _read_gaussian_dropout(draft: Draft, layer: Any, inputs: list[int]) -> int:
    _check_rate(layer)
    deviation = float(np.sqrt(layer.rate / (1.0 - layer.rate)))
    return draft.add(layer, GaussianNoise, *inputs, deviation=deviation, relative=True)


def _make_gaussian_noise(layer: GaussianNoise, _shape: Shape, _penalties: Penalties) -> Callable[..., Any]:
    if not layer.relative:
        return partial(keras.layers.GaussianNoise, stddev=layer.deviation)
    square = layer.deviation**2
    return partial(keras.layers.GaussianDropout, rate=square / (1.0 + square))


def _check_rate(layer: Any) -> None:
    if not 0.0 <= layer.rate < 1.0:
        refuse(layer, f"rate = {plain(layer.rate)}", "one from 0 to below 1")


_ACTIVATIONS: dict[Any, Function] = {
    activations.gelu_tanh: Function.GELU_TANH,
    activations.hard_sigmoid: Function.HARD_SIGMOID,
    activations.hard_swish: Function.HARD_SWISH,
    keras.activations.elu: Function.ELU,
    keras.activations.exponential: Function.EXPONENTIAL,
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
    tf.math.exp: Function.EXPONENTIAL,
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

_UNNAMED = {
    Function.GELU_TANH: activations.gelu_tanh,
    Function.HARD_SIGMOID: activations.hard_sigmoid,
    Function.HARD_SWISH: activations.hard_swish,
}
"""Functions that tf_keras has no name for, or another function under that name."""

FAMILY = Family(
    readers={
        keras.layers.Activation: Reader(_read_activation, "activation", Masks.HANDED_ON),
        keras.layers.Dropout: Reader(_read_dropout, "rate noise_shape", Masks.HANDED_ON),
        keras.layers.ELU: Reader(_read_elu, "alpha", Masks.HANDED_ON),
        keras.layers.GaussianDropout: Reader(_read_gaussian_dropout, "rate", Masks.HANDED_ON),
        keras.layers.GaussianNoise: Reader(_read_gaussian_noise, "stddev", Masks.HANDED_ON),
        keras.layers.Identity: Reader(_read_identity),
        keras.layers.LeakyReLU: Reader(_read_leaky_relu, "negative_slope", Masks.HANDED_ON),
        keras.layers.Normalization: Reader(_read_normalization, "axis mean variance invert"),
        keras.layers.ReLU: Reader(_read_relu, "max_value negative_slope threshold", Masks.HANDED_ON),
        keras.layers.Rescaling: Reader(_read_rescaling, "scale offset"),
        keras.layers.Softmax: Reader(_read_softmax, "axis"),
        keras.layers.SpatialDropout1D: Reader(_read_dropout, "rate", Masks.HANDED_ON),
        keras.layers.SpatialDropout2D: Reader(_read_dropout, "rate data_format", Masks.HANDED_ON),
    },
    makers={
        Activation: Maker(_make_activation),
        Dropout: Maker(_make_dropout),
        GaussianNoise: Maker(_make_gaussian_noise),
        Rescaling: Maker(_make_rescaling),
    },
)
