"""Keras 3's operators (`x + y`, `keras.ops.reshape`), made anew of TensorFlow's.

tf_keras records them as layers, which `export.describing.operators` reads and checks. Importing this module imports
TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from export.keras3.layers import Config, plain, refuse
from fedprune.keras.stack import keras, tf

_OperatorLayer = keras.src.layers.core.tf_op_layer.TFOpLambda
_PLACES = ("keras.src.ops.numpy", "keras.src.ops.nn", "keras.src.ops.core")


def is_operator(described: Config) -> bool:
    """Keras 3 keeps operators beside layers."""
    return described.get("module") in _PLACES


def make_operator(described: Config) -> Callable[..., Any]:
    """A function of the operator's arguments. Raises `TaskError`, naming it, for what is not listed."""
    kind, config = str(described.get("class_name")), described.get("config")
    if kind not in _OPERATORS or not isinstance(config, dict):
        refuse(
            described, f"is the operator {kind[:60]!r}; use layers, or one of these: {', '.join(sorted(_OPERATORS))}"
        )
    operator, parameters = _OPERATORS[kind]
    settings = {}
    for name, value in config.items():
        if name in parameters:
            settings[parameters[name]] = plain(described, value)
        elif name not in ("name", "dtype", "trainable") and value not in (None, False):
            refuse(described, f"has {name[:60]!r}; leave it as Keras sets it")
    layer = _OperatorLayer(operator, name=config["name"])

    def call(*given: Any, **named: Any) -> Any:
        return layer(*given, **settings, **named)

    return call


_OPERATORS: dict[str, tuple[Any, dict[str, str]]] = {
    "Add": (tf.math.add, {}),
    "Clip": (tf.clip_by_value, {"x_min": "clip_value_min", "x_max": "clip_value_max"}),
    "Concatenate": (tf.concat, {"axis": "axis"}),
    "Divide": (tf.math.truediv, {}),
    "Exp": (tf.math.exp, {}),
    "ExpandDims": (tf.expand_dims, {"axis": "axis"}),
    "Gelu": (tf.nn.gelu, {"approximate": "approximate"}),
    "LeakyRelu": (tf.nn.leaky_relu, {"negative_slope": "alpha"}),
    "Max": (tf.math.reduce_max, {"axis": "axis", "keepdims": "keepdims"}),
    "Maximum": (tf.math.maximum, {}),
    "Mean": (tf.math.reduce_mean, {"axis": "axis", "keepdims": "keepdims"}),
    "Minimum": (tf.math.minimum, {}),
    "Multiply": (tf.math.multiply, {}),
    "Negative": (tf.math.negative, {}),
    "Relu": (tf.nn.relu, {}),
    "Relu6": (tf.nn.relu6, {}),
    "Reshape": (tf.reshape, {"newshape": "shape"}),
    "Selu": (tf.nn.selu, {}),
    "Sigmoid": (tf.math.sigmoid, {}),
    "Silu": (tf.nn.silu, {}),
    "Softmax": (tf.nn.softmax, {"axis": "axis"}),
    "Softplus": (tf.nn.softplus, {}),
    "Softsign": (tf.nn.softsign, {}),
    "Subtract": (tf.math.subtract, {}),
    "Tanh": (tf.math.tanh, {}),
    "TrueDivide": (tf.math.truediv, {}),
}
"""TensorFlow's operators by Keras 3's names, with what settings are called."""
