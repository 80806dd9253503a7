"""Activation functions of single numbers in float64: what becomes of a unit that is always the same number."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedprune.network.layers import Activation, Function

Numbers = NDArray[np.float64]

_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
_GELU_SCALE, _GELU_CUBE = 0.7978845608028654, 0.044715


def activated(layer: Activation, x: Numbers) -> Numbers:
    """What the layer makes of each number of `x`. Softmax is no function of single numbers, and a KeyError.

    Example:
        >>> activated(Activation(name="a", function=Function.SIGMOID), np.zeros(2)).tolist()
        [0.5, 0.5]
    """
    if layer.function is Function.LEAKY_RELU:
        return np.where(x > 0.0, x, layer.slope * x)
    if layer.function is Function.ELU:
        return _elu(x, layer.slope)
    return _FUNCTIONS[layer.function](x)


def _elu(x: Numbers, slope: float) -> Numbers:
    return np.where(x > 0.0, x, slope * np.expm1(np.minimum(x, 0.0)))


def _sigmoid(x: Numbers) -> Numbers:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _gelu(x: Numbers) -> Numbers:
    return 0.5 * x * (1.0 + np.array([math.erf(number / math.sqrt(2.0)) for number in x.tolist()]))


def _hard_sigmoid(x: Numbers) -> Numbers:
    return np.clip(x / 6.0 + 0.5, 0.0, 1.0)


_FUNCTIONS: dict[Function, Callable[[Numbers], Numbers]] = {
    Function.RELU: lambda x: np.maximum(x, 0.0),
    Function.RELU6: lambda x: np.clip(x, 0.0, 6.0),
    Function.TANH: np.tanh,
    Function.SIGMOID: _sigmoid,
    Function.EXPONENTIAL: np.exp,
    Function.GELU: _gelu,
    Function.GELU_TANH: lambda x: 0.5 * x * (1.0 + np.tanh(_GELU_SCALE * (x + _GELU_CUBE * x**3))),
    Function.HARD_SIGMOID: _hard_sigmoid,
    Function.HARD_SWISH: lambda x: x * _hard_sigmoid(x),
    Function.SELU: lambda x: _SELU_SCALE * _elu(x, _SELU_ALPHA),
    Function.SOFTPLUS: lambda x: np.logaddexp(x, 0.0),
    Function.SOFTSIGN: lambda x: x / (1.0 + np.abs(x)),
    Function.SWISH: lambda x: x * _sigmoid(x),
}
