"""Readers of functions of single numbers: activations, alone or within a layer. Importing this imports TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np

from export.describing.draft import Draft
from export.describing.refusal import plain, refuse, require
from fedprune.keras import activations
from fedprune.keras.stack import keras, tf
from fedprune.network import layers as network
from fedprune.network.layers import Function

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


def activation(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    return activate(draft, layer, x, layer.activation)


def relu(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    require(layer, threshold=0.0)
    if layer.max_value is None:
        return leaky(draft, layer, x, float(layer.negative_slope))
    require(layer, max_value=6.0, negative_slope=0.0)
    return draft.add(layer, network.Activation, x, function=Function.RELU6)


def elu(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    return draft.add(layer, network.Activation, x, function=Function.ELU, slope=float(layer.alpha))


def leaky_relu(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    return leaky(draft, layer, x, float(layer.alpha))


def softmax(draft: Draft, layer: Any, inputs: list[int]) -> int:
    (x,) = inputs
    if layer.axis not in (-1, len(draft.shape(x))):
        refuse(layer, f"axis = {plain(layer.axis)}", "-1")
    return draft.add(layer, network.Activation, x, function=Function.SOFTMAX)


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
