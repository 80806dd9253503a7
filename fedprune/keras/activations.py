"""Activation functions that tf_keras has no name for. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedprune.keras.stack import keras, tf

_Function = Callable[[Any], Any]
_named: Callable[[_Function], _Function] = keras.saving.register_keras_serializable(package="fedprune")
"""Models that use these can be cloned."""


@_named
def hard_sigmoid(x: Any) -> Any:
    """Keras 3's, whose slope is 1/6; that of tf_keras is 0.2."""
    return tf.nn.relu6(x + 3.0) / 6.0


@_named
def hard_swish(x: Any) -> Any:
    """Keras 3's, also called hard_silu."""
    return x * hard_sigmoid(x)


@_named
def gelu_tanh(x: Any) -> Any:
    """GELU as tanh approximates it."""
    return tf.nn.gelu(x, approximate=True)
