"""Predictions in the user's units: what a model learned of normalised targets is put back inside the exported file.

Two operators of float32 come last, after one that makes floats of an int8 answer: in int8 a number could not be far
from 0 and vary by little. Classes and codes are those of TensorFlow Lite's schema, version 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder
from numpy.typing import NDArray

from fedprune.model.tensors import Array
from fedprune.task.units import Units

_IDENTIFIER = b"TFL3"
_NOTHING = 0
_DEQUANTIZES_INT8 = 2
"""The version of the operator."""


def in_units(content: bytes, units: Units) -> bytes:
    """A file of one output with its answers in the user's units, as float32."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    (answer,) = graph.outputs
    shape = graph.tensors[answer].shape
    value = answer
    if graph.tensors[answer].type == schema.TensorType.INT8:
        value = _operate(model, schema.BuiltinOperator.DEQUANTIZE, [value], shape, version=_DEQUANTIZES_INT8)
    for code, options, numbers in (
        (schema.BuiltinOperator.MUL, schema.MulOptionsT(), units.scale),
        (schema.BuiltinOperator.ADD, schema.AddOptionsT(), units.shift),
    ):
        value = _operate(model, code, [value, _constant(model, np.array(numbers, np.float32))], shape, options)
    graph.outputs = np.array([value], np.int32)
    signature.outputs[0].tensorIndex = value
    builder = Builder(len(content))
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def _operate(
    model: Any, code: int, inputs: list[int], shape: NDArray[np.int32], options: Any = None, version: int = 1
) -> int:
    """Append an operator; the number of the tensor that it makes."""
    made = schema.OperatorCodeT()
    made.builtinCode = made.deprecatedBuiltinCode = code
    made.version = version
    model.operatorCodes.append(made)
    output = _tensor(model, f"units/{len(model.operatorCodes)}", shape, _NOTHING)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
    if options is not None:
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
    model.subgraphs[0].operators.append(operator)
    return output


def _constant(model: Any, numbers: Array) -> int:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(numbers.astype("<f4").tobytes(), np.uint8)
    model.buffers.append(buffer)
    number = len(model.buffers) - 1
    return _tensor(model, f"units/constant/{number}", np.array(numbers.shape, np.int32), number)


def _tensor(model: Any, name: str, shape: NDArray[np.int32], buffer: int) -> int:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name.encode(), shape, buffer
    tensor.type = schema.TensorType.FLOAT32
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1
