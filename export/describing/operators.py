"""Readers of TensorFlow's operators, which Keras records as layers: `x + y`, `x / 127.5`, `tf.reshape` and the like.

A reader takes the draft, the operator's layer and the operator's arguments by name. An argument is a `Value` where
the network makes it, and else what was given. Importing this module imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from fedprune.keras.draft import Draft
from fedprune.keras.joins import subtract
from fedprune.keras.pointwise import DEFAULT_SLOPE, leaky, rescale
from fedprune.keras.refusal import plain, refuse
from fedprune.keras.shapes import concatenate
from fedprune.keras.stack import keras, tf
from fedprune.network import layers as network
from fedprune.network.layers import Function, Operation, Statistic


@dataclass(frozen=True)
class Value:
    """A value of the network, by its number, and the mask of its steps if it has one."""

    number: int
    mask: int | None = None


@dataclass(frozen=True)
class ShapeOf:
    """What tf.shape makes of a value: not numbers of an example, but a size of the batch and sizes that are known."""

    number: int


class Batch:
    """The number of examples in a batch, as the first entry of tf.shape is."""


Made = Value | ShapeOf | Batch | int
Arguments = Mapping[str, Any]


def read_operator(draft: Draft, layer: Any, given: Sequence[Any], named: Mapping[str, Any]) -> Made:
    """What the operator makes of its arguments. Raises `TaskError`, naming the operator, for what is not listed."""
    if layer.symbol not in OPERATORS:
        listed = ", ".join(symbol.removeprefix("compat.v1.") for symbol in OPERATORS if "__" not in symbol)
        refuse(layer, f"operator tf.{layer.symbol[:60]}", f"layers, + - * / and these operators of tf: {listed}")
    parameters, read = OPERATORS[layer.symbol]
    arguments = dict(zip(parameters, given, strict=False)) | dict(named)
    arguments.pop("name", None)
    unknown = [name for name in arguments if name not in parameters]
    if unknown or len(given) > len(parameters):
        refuse(layer, f"an argument {(unknown or ['too many'])[0]}", f"these alone: {', '.join(parameters)}")
    return read(draft, layer, arguments)


def _add(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    x, y = arguments["x"], arguments["y"]
    if isinstance(x, Value) and isinstance(y, Value):
        return Value(draft.add(layer, network.Add, x.number, y.number))
    value, constant = _with_constant(layer, x, y)
    return Value(rescale(draft, layer, value, 1.0, constant))


def _subtract(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    x, y = arguments["x"], arguments["y"]
    if isinstance(x, Value) and isinstance(y, Value):
        return Value(subtract(draft, layer, x.number, y.number))
    value, constant = _with_constant(layer, x, y)
    if isinstance(x, Value):
        return Value(rescale(draft, layer, value, 1.0, -constant))
    return Value(rescale(draft, layer, value, -1.0, constant))


def _multiply(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    x, y = arguments["x"], arguments["y"]
    if isinstance(x, Value) and isinstance(y, Value):
        return _merge(Operation.MULTIPLY)(draft, layer, arguments)
    value, constant = _with_constant(layer, x, y)
    return Value(rescale(draft, layer, value, constant, 0.0))


def _merge(operation: Operation) -> _Reader:
    def read(draft: Draft, layer: Any, arguments: Arguments) -> Made:
        x, y = (_value(layer, arguments[name]) for name in ("x", "y"))
        return Value(draft.add(layer, network.Merge, x, y, operation=operation))

    return read


def _scale(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    return _multiply(draft, layer, {"x": arguments["scalar"], "y": arguments["x"]})


def _divide(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    value, constant = _with_constant(layer, arguments["x"], arguments["y"])
    if not isinstance(arguments["x"], Value) or not np.all(constant):
        refuse(layer, "dividing by what is no constant, or 0", "a constant divisor")
    return Value(rescale(draft, layer, value, 1.0 / constant, 0.0))


def _negative(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    return Value(rescale(draft, layer, _value(layer, arguments["x"]), -1.0, 0.0))


def _add_bias(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    if arguments.get("data_format") not in (None, "NHWC"):
        refuse(layer, "channels first", "channels last")
    return _add(draft, layer, {"x": arguments["value"], "y": arguments["bias"]})


def _add_all(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    inputs = [_value(layer, x) for x in arguments["inputs"]]
    return Value(draft.add(layer, network.Add, *inputs) if len(inputs) > 1 else inputs[0])


def _concatenate(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    inputs = [_value(layer, x) for x in arguments["values"]]
    return Value(concatenate(draft, layer, inputs, _integer(layer, arguments["axis"])))


def _function(function: Function) -> _Reader:
    def read(draft: Draft, layer: Any, arguments: Arguments) -> Made:
        (x,) = arguments.values()
        return Value(draft.add(layer, network.Activation, _value(layer, x), function=function))

    return read


def _leaky_relu(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    slope = _number(layer, arguments.get("alpha", DEFAULT_SLOPE))
    return Value(leaky(draft, layer, _value(layer, arguments["features"]), slope))


def _elu(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    x = _value(layer, arguments["features"])
    return Value(draft.add(layer, network.Activation, x, function=Function.ELU, slope=1.0))


def _gelu(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    function = Function.GELU_TANH if arguments.get("approximate") else Function.GELU
    return Value(draft.add(layer, network.Activation, _value(layer, arguments["features"]), function=function))


def _swish(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    if arguments.get("beta", 1.0) != 1.0:
        refuse(layer, f"beta = {plain(arguments['beta'])}", "1")
    return Value(draft.add(layer, network.Activation, _value(layer, arguments["features"]), function=Function.SWISH))


def _softmax(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    x = _value(layer, arguments["logits"])
    if arguments.get("axis") not in (None, -1, len(draft.shape(x))):
        refuse(layer, f"axis = {plain(arguments['axis'])}", "-1")
    return Value(draft.add(layer, network.Activation, x, function=Function.SOFTMAX))


def _maximum(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    x, y = arguments["x"], arguments["y"]
    if isinstance(x, Value) and isinstance(y, Value):
        return _merge(Operation.MAXIMUM)(draft, layer, arguments)
    value, constant = _with_constant(layer, x, y)
    if np.any(constant):
        refuse(layer, "a maximum with other numbers than 0", "0, or tf.nn.relu")
    return Value(draft.add(layer, network.Activation, value, function=Function.RELU))


def _minimum(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    if not (isinstance(arguments["x"], Value) and isinstance(arguments["y"], Value)):
        refuse(layer, "a minimum with constants", "tf.clip_by_value to 0 and 6")
    return _merge(Operation.MINIMUM)(draft, layer, arguments)


def _clip(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    low, high = (_number(layer, arguments[f"clip_value_{end}"]) for end in ("min", "max"))
    if (low, high) != (0.0, 6.0):
        refuse(layer, f"clipping to {plain(low)} and {plain(high)}", "0 and 6, or tf.nn.relu")
    return Value(draft.add(layer, network.Activation, _value(layer, arguments["t"]), function=Function.RELU6))


def _pool(statistic: Statistic) -> _Reader:
    def read(draft: Draft, layer: Any, arguments: Arguments) -> Made:
        x = _value(layer, arguments["input_tensor"])
        rank = len(draft.shape(x)) + 1
        axes = _integers(layer, arguments.get("axis"))
        if sorted(axis % rank for axis in axes) != list(range(1, rank - 1)):
            refuse(layer, f"axis = {plain(axes)}", f"all places, {list(range(1, rank - 1))}")
        keep_axes = bool(arguments.get("keepdims"))
        return Value(draft.add(layer, network.GlobalPooling, x, statistic=statistic, keep_axes=keep_axes))

    return read


def _reshape(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    x = _value(layer, arguments["tensor"])
    first, *others = list(arguments["shape"])
    sizes = _integers(layer, others)
    if not isinstance(first, Batch) and _integer(layer, first) != -1:
        refuse(layer, "a shape for batches of one size", "-1 as its first entry")
    if -1 in sizes and isinstance(first, Batch):
        known = int(np.prod([size for size in sizes if size != -1]))
        sizes[sizes.index(-1)] = int(np.prod(draft.shape(x))) // max(known, 1)
    return _reshaped(draft, layer, x, sizes)


def _squeeze(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    x = _value(layer, arguments["input"])
    shape = (0, *draft.shape(x))
    axes = {axis % len(shape) for axis in _integers(layer, arguments.get("axis"))}
    if arguments.get("squeeze_dims") is not None or not axes or any(shape[axis] != 1 for axis in axes):
        refuse(layer, "axes whose size is not known to be 1", "their numbers as axis")
    return _reshaped(draft, layer, x, [size for axis, size in enumerate(shape) if axis and axis not in axes])


def _expand(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    x = _value(layer, arguments["input"])
    shape = list(draft.shape(x))
    axis = _integer(layer, arguments["axis"]) % (len(shape) + 2)
    if axis == 0:
        refuse(layer, "axis = 0, which is that of examples", "another axis")
    return _reshaped(draft, layer, x, [*shape[: axis - 1], 1, *shape[axis - 1 :]])


def _pad(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    mode, filling = arguments.get("mode", "CONSTANT"), arguments.get("constant_values", 0)
    rows = [_integers(layer, row) for row in arguments["paddings"]]
    if str(mode).upper() != "CONSTANT" or filling != 0 or rows[0] != [0, 0] or rows[-1] != [0, 0]:
        refuse(layer, "padding other than zeros around places", "zeros, for all axes but the first and last")
    padding = tuple((before, after) for before, after in rows[1:-1])
    return Value(draft.add(layer, network.ZeroPadding, _value(layer, arguments["tensor"]), padding=padding))


def _same(_draft: Draft, layer: Any, arguments: Arguments) -> Made:
    return Value(_value(layer, arguments["input"]))


def _cast(_draft: Draft, layer: Any, arguments: Arguments) -> Made:
    if tf.as_dtype(arguments["dtype"]) != tf.float32:
        refuse(layer, "a cast to another type", "float32")
    return Value(_value(layer, arguments["x"]))


def _shape(_draft: Draft, layer: Any, arguments: Arguments) -> Made:
    return ShapeOf(_value(layer, arguments["input"]))


def _item(draft: Draft, layer: Any, arguments: Arguments) -> Made:
    """An entry of a shape; other slices have no description."""
    shape, index = arguments["tensor"], arguments["slice_spec"]
    if not isinstance(shape, ShapeOf) or type(index) is not int:
        refuse(layer, "a slice of a value", "all of it; an image's channels can be put in order in the data")
    sizes = draft.shape(shape.number)
    index %= len(sizes) + 1
    return Batch() if index == 0 else sizes[index - 1]


def _reshaped(draft: Draft, layer: Any, x: int, sizes: Sequence[int]) -> Made:
    shape = tuple(sizes)
    return Value(x if shape == draft.shape(x) else draft.add(layer, network.Reshape, x, shape=shape))


def _with_constant(layer: Any, x: Any, y: Any) -> tuple[int, Any]:
    """The number of the one that is a value, and the other, which is a constant."""
    value, constant = (x, y) if isinstance(x, Value) else (y, x)
    if isinstance(constant, Value | ShapeOf | Batch) or not isinstance(value, Value):
        _refuse_kind(layer)
    return value.number, np.asarray(constant, np.float64)


def _value(layer: Any, x: Any) -> int:
    return x.number if isinstance(x, Value) else _refuse_kind(layer)


def _number(layer: Any, x: Any) -> float:
    return _refuse_kind(layer) if isinstance(x, Value | ShapeOf | Batch) else float(x)


def _integer(layer: Any, x: Any) -> int:
    return int(_number(layer, x))


def _integers(layer: Any, x: Any) -> list[int]:
    """One integer, several, or none."""
    return [] if x is None else [_integer(layer, entry) for entry in (x if np.ndim(x) else [x])]


def _refuse_kind(layer: Any) -> NoReturn:
    refuse(layer, f"tf.{layer.symbol[:60]} of these arguments", "one value of the network and constants")


_Reader = Callable[[Draft, Any, Arguments], Made]

OPERATORS: dict[str, tuple[tuple[str, ...], _Reader]] = {
    "__operators__.add": (("x", "y"), _add),
    "__operators__.getitem": (("tensor", "slice_spec"), _item),
    "cast": (("x", "dtype"), _cast),
    "clip_by_value": (("t", "clip_value_min", "clip_value_max"), _clip),
    "compat.v1.math.scalar_mul": (("scalar", "x", "name"), _scale),
    "compat.v1.pad": (("tensor", "paddings", "mode", "name", "constant_values"), _pad),
    "compat.v1.shape": (("input", "name", "out_type"), _shape),
    "compat.v1.squeeze": (("input", "axis", "name", "squeeze_dims"), _squeeze),
    "concat": (("values", "axis"), _concatenate),
    "expand_dims": (("input", "axis"), _expand),
    "identity": (("input",), _same),
    "math.add": (("x", "y"), _add),
    "math.add_n": (("inputs",), _add_all),
    "math.divide": (("x", "y"), _divide),
    "math.exp": (("x",), _function(Function.EXPONENTIAL)),
    "math.maximum": (("x", "y"), _maximum),
    "math.minimum": (("x", "y"), _minimum),
    "math.multiply": (("x", "y"), _multiply),
    "math.negative": (("x",), _negative),
    "math.reduce_max": (("input_tensor", "axis", "keepdims"), _pool(Statistic.MAX)),
    "math.reduce_mean": (("input_tensor", "axis", "keepdims"), _pool(Statistic.MEAN)),
    "math.sigmoid": (("x",), _function(Function.SIGMOID)),
    "math.softplus": (("features",), _function(Function.SOFTPLUS)),
    "math.subtract": (("x", "y"), _subtract),
    "math.tanh": (("x",), _function(Function.TANH)),
    "math.truediv": (("x", "y"), _divide),
    "nn.bias_add": (("value", "bias", "data_format"), _add_bias),
    "nn.elu": (("features",), _elu),
    "nn.gelu": (("features", "approximate"), _gelu),
    "nn.leaky_relu": (("features", "alpha"), _leaky_relu),
    "nn.relu": (("features",), _function(Function.RELU)),
    "nn.relu6": (("features",), _function(Function.RELU6)),
    "nn.selu": (("features",), _function(Function.SELU)),
    "nn.silu": (("features", "beta"), _swish),
    "nn.softmax": (("logits", "axis"), _softmax),
    "nn.softsign": (("features",), _function(Function.SOFTSIGN)),
    "reshape": (("tensor", "shape"), _reshape),
    "shape": (("input", "out_type"), _shape),
}
"""The operators, by TensorFlow's names, with their parameters in order."""

IS_OPERATOR = (keras.src.layers.core.tf_op_layer.TFOpLambda, keras.src.layers.core.tf_op_layer.SlicingOpLambda)
"""The Keras layers that record an operator."""
