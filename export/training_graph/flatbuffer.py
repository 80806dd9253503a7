"""Writes a TFLite file operator by operator: float32 tensors of fixed shapes, builtin operators of version 1 only.

No converter has a hand in it, so that what is computed is what is written here. Operators are those that XNNPACK runs
in ai-edge-litert and that tflite-runtime 2.14 has. Equal operations on equal tensors are made once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder
from numpy.typing import NDArray

_SCHEMA_VERSION = 3
_VALID = schema.Padding.VALID
_OP = schema.BuiltinOperator
_LARGEST_OLD_CODE = 127
"""Operator codes above this do not fit the field that old runtimes read."""


@dataclass(frozen=True)
class Tensor:
    """A float32 (or constant int32) tensor of a `Graph`."""

    index: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


Operand = Tensor | float


class Graph:
    """A graph that grows by each call. Methods are TFLite's operators of the same name, and return their output."""

    def __init__(self) -> None:
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._buffers = [schema.BufferT()]  # the first is by definition the empty one
        self._codes: dict[int, int] = {}
        self._inputs: dict[str, Tensor] = {}
        self._made: dict[Any, Tensor] = {}

    def input(self, name: str, shape: Sequence[int]) -> Tensor:
        self._inputs[name] = self._tensor(shape, name=name)
        return self._inputs[name]

    def constant(self, array: NDArray[Any]) -> Tensor:
        """A tensor of given values, float32 or int32."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._made:
            self._buffers.append(schema.BufferT(data=np.frombuffer(array.tobytes(), np.uint8)))
            kind = schema.TensorType.FLOAT32 if array.dtype == np.float32 else schema.TensorType.INT32
            self._made[key] = self._tensor(array.shape, kind=kind, buffer=len(self._buffers) - 1)
        return self._made[key]

    def add(self, a: Tensor, b: Operand) -> Tensor:
        return self._binary(_OP.ADD, a, b, schema.AddOptionsT())

    def subtract(self, a: Operand, b: Tensor) -> Tensor:
        return self._binary(_OP.SUB, a, b, schema.SubOptionsT())

    def multiply(self, a: Tensor, b: Operand) -> Tensor:
        return self._binary(_OP.MUL, a, b, schema.MulOptionsT())

    def divide(self, a: Operand, b: Tensor) -> Tensor:
        return self._binary(_OP.DIV, a, b, schema.DivOptionsT())

    def maximum(self, a: Tensor, b: Operand) -> Tensor:
        return self._binary(_OP.MAXIMUM, a, b, schema.MaximumMinimumOptionsT())

    def minimum(self, a: Tensor, b: Operand) -> Tensor:
        return self._binary(_OP.MINIMUM, a, b, schema.MaximumMinimumOptionsT())

    def relu(self, x: Tensor) -> Tensor:
        return self._operate(_OP.RELU, [x], x.shape)

    def leaky_relu(self, x: Tensor, alpha: float) -> Tensor:
        return self._operate(_OP.LEAKY_RELU, [x], x.shape, schema.LeakyReluOptionsT(alpha))

    def softmax(self, x: Tensor) -> Tensor:
        """Over the last axis."""
        return self._operate(_OP.SOFTMAX, [x], x.shape, schema.SoftmaxOptionsT(beta=1.0))

    def exp(self, x: Tensor) -> Tensor:
        return self._operate(_OP.EXP, [x], x.shape, schema.ExpOptionsT())

    def log(self, x: Tensor) -> Tensor:
        return self._operate(_OP.LOG, [x], x.shape)

    def rsqrt(self, x: Tensor) -> Tensor:
        return self._operate(_OP.RSQRT, [x], x.shape)

    def sum(self, x: Tensor, *axes: int) -> Tensor:
        """The sum over `axes`, which stay in the shape with size 1."""
        return self._reduce(_OP.SUM, x, axes)

    def reduce_max(self, x: Tensor, *axes: int) -> Tensor:
        """The maximum over `axes`, which stay in the shape with size 1."""
        return self._reduce(_OP.REDUCE_MAX, x, axes)

    def matmul(self, a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
        """The product of two matrices."""
        rows, columns = a.shape[1 if transpose_a else 0], b.shape[0 if transpose_b else 1]
        options = schema.BatchMatMulOptionsT(adjX=transpose_a, adjY=transpose_b)
        return self._operate(_OP.BATCH_MATMUL, [a, b], (rows, columns), options)

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        if tuple(shape) == x.shape:
            return x
        return self._operate(_OP.RESHAPE, [x, self._integers(shape)], shape, schema.ReshapeOptionsT(list(shape)))

    def pad(self, x: Tensor, axis: int, before: int, after: int, value: float = 0.0) -> Tensor:
        """`x` with `before` and `after` more entries of `value` along one axis."""
        if before == after == 0:
            return x
        pads = np.zeros((len(x.shape), 2), np.int32)
        pads[axis] = before, after
        inputs, shape = [x, self.constant(pads)], [size + sum(pad) for size, pad in zip(x.shape, pads, strict=True)]
        if value == 0.0:
            return self._operate(_OP.PAD, inputs, shape, schema.PadOptionsT())
        return self._operate(_OP.PADV2, [*inputs, self._scalar(value)], shape, schema.PadV2OptionsT())

    def slice(self, x: Tensor, axis: int, begin: int, size: int) -> Tensor:
        """`size` entries from `begin` on along one axis."""
        if size == x.shape[axis]:
            return x
        begins, sizes = [0] * len(x.shape), list(x.shape)
        begins[axis], sizes[axis] = begin, size
        inputs = [x, self._integers(begins), self._integers(sizes)]
        return self._operate(_OP.SLICE, inputs, sizes, schema.SliceOptionsT())

    def concatenate(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        if len(parts) == 1:
            return parts[0]
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self._operate(_OP.CONCATENATION, parts, shape, schema.ConcatenationOptionsT(axis))

    def convolve(self, x: Tensor, filters: NDArray[np.float32], strides: tuple[int, int]) -> Tensor:
        """`x` `[n, h, w, c]` with constant `filters` `[out, height, width, c]`, without padding or bias."""
        out, height, width, _ = filters.shape
        shape = (x.shape[0], (x.shape[1] - height) // strides[0] + 1, (x.shape[2] - width) // strides[1] + 1, out)
        options = schema.Conv2DOptionsT(padding=_VALID, strideH=strides[0], strideW=strides[1])
        inputs = [x, self.constant(filters), self.constant(np.zeros(out, np.float32))]
        return self._operate(_OP.CONV_2D, inputs, shape, options)

    def finish(self, signature: str, outputs: Mapping[str, Tensor]) -> bytes:
        """The file, with one signature that takes all inputs and returns `outputs`."""
        subgraph = schema.SubGraphT(
            tensors=self._tensors,
            inputs=[tensor.index for tensor in self._inputs.values()],
            outputs=[tensor.index for tensor in outputs.values()],
            operators=self._operators,
            name="main",
        )
        model = schema.ModelT(
            version=_SCHEMA_VERSION,
            operatorCodes=[
                schema.OperatorCodeT(deprecatedBuiltinCode=min(code, _LARGEST_OLD_CODE), builtinCode=code, version=1)
                for code in self._codes
            ],
            subgraphs=[subgraph],
            buffers=self._buffers,
            signatureDefs=[schema.SignatureDefT(_names(self._inputs), _names(outputs), signature, 0)],
        )
        builder = Builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _binary(self, code: int, a: Operand, b: Operand, options: Any) -> Tensor:
        a, b = (operand if isinstance(operand, Tensor) else self._scalar(operand) for operand in (a, b))
        return self._operate(code, [a, b], np.broadcast_shapes(a.shape, b.shape), options)

    def _reduce(self, code: int, x: Tensor, axes: Sequence[int]) -> Tensor:
        if all(x.shape[axis] == 1 for axis in axes):
            return x
        shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        return self._operate(code, [x, self._integers(axes)], shape, schema.ReducerOptionsT(keepDims=True))

    def _operate(self, code: int, inputs: Sequence[Tensor], shape: Sequence[int], options: Any = None) -> Tensor:
        key = (code, tuple(inputs), tuple(vars(options).items() if options is not None and code != _OP.RESHAPE else ()))
        if key not in self._made:
            output = self._made[key] = self._tensor(shape)
            kind = 0 if options is None else getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            self._operators.append(
                schema.OperatorT(
                    opcodeIndex=self._codes.setdefault(code, len(self._codes)),
                    inputs=[tensor.index for tensor in inputs],
                    outputs=[output.index],
                    builtinOptionsType=kind,
                    builtinOptions=options,
                )
            )
        return self._made[key]

    def _tensor(self, shape: Sequence[int], *, name: str = "", kind: int = 0, buffer: int = 0) -> Tensor:
        tensor = Tensor(len(self._tensors), tuple(map(int, shape)))
        self._tensors.append(
            schema.TensorT(
                shape=list(tensor.shape), type=kind, buffer=buffer, name=name or f"t{tensor.index}", hasRank=True
            )
        )
        return tensor

    def _scalar(self, value: float) -> Tensor:
        return self.constant(np.full(1, value, np.float32))

    def _integers(self, values: Sequence[int]) -> Tensor:
        return self.constant(np.array(values, np.int32))


def _names(tensors: Mapping[str, Tensor]) -> list[Any]:
    return [schema.TensorMapT(name, tensor.index) for name, tensor in tensors.items()]
