"""A graph that is written operator by operator: tensors of fixed shapes, builtin operators of version 1 only.

No converter has a hand in it, so that what is computed is what is written here. Numbers are float32, ids int32.
Operators are those that ai-edge-litert and tflite-runtime 2.14 have; most of them run in XNNPACK. Equal operations on
equal tensors are made once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.errors import TaskError
from fedprune.graph.file import INT32, Attribute, Code, OperatorRow, TensorRow, pack_file
from fedprune.runtime.training_graph import IDS_BELOW, PADDED_WITH

MAX_OPERATORS = 2**16
"""Operators of a graph; MobileNetV2 trains with 11,000."""
_MAX_REQUESTS = 2**18
"""Operators that may be asked for, those among them that are there already: asking takes time too."""
MAX_CONSTANT_BYTES = 2**28
"""Bytes of all constants of a graph."""
MAX_TENSOR_BYTES = 2**31 - 1
"""Bytes of one tensor: runtimes count them in 32 bits."""
_TERMS = 32
"""A sum of more terms is made in stages: one float32 accumulator over 10^5 terms loses three digits."""
_NARROW = 64
"""Rows shorter than this are worth being made longer."""
_FEW = 8
"""What is made for that is so many times smaller than what it is made for, at least."""
_SAME, _VALID = 0, 1


@dataclass(frozen=True)
class Tensor:
    """A float32 tensor of a `Graph`, or an int32 one of constants or ids."""

    index: int
    shape: tuple[int, ...]
    dtype: type[np.generic] = np.float32

    @property
    def size(self) -> int:
        return math.prod(self.shape)


Operand = Tensor | float


class Graph:
    """A graph that grows by each call. Methods are TFLite's operators of the same name, and return their output."""

    def __init__(self) -> None:
        self._tensors: list[TensorRow] = []
        self._operators: list[OperatorRow] = []
        self._buffers: list[NDArray[Any]] = []
        self._inputs: dict[str, Tensor] = {}
        self._made: dict[Any, Tensor] = {}
        self._constant_bytes = 0
        self._requests = 0

    def input(
        self, name: str, shape: Sequence[int], vocabulary: int | None = None, padding: float | None = None
    ) -> Tensor:
        """An input of numbers or, with a `vocabulary`, of int32 ids below it, which the tensor's name then tells, and
        the `padding` that may be in it."""
        told = name if vocabulary is None else f"{IDS_BELOW}{vocabulary}"
        told += "" if padding is None else f"{PADDED_WITH}{padding}"
        self._inputs[name] = self._tensor(shape, name=told, dtype=np.float32 if vocabulary is None else np.int32)
        return self._inputs[name]

    def constant(self, array: NDArray[Any]) -> Tensor:
        """A tensor of given values, float32 or int32."""
        key = (array.dtype.str, array.shape, hashlib.sha256(np.ascontiguousarray(array).data).digest())
        if key not in self._made:
            self._constant_bytes += array.nbytes
            if self._constant_bytes > MAX_CONSTANT_BYTES:
                raise TaskError(f"the network's graph needs more than {MAX_CONSTANT_BYTES} bytes of constants")
            self._buffers.append(array)
            self._made[key] = self._tensor(array.shape, dtype=array.dtype.type, buffer=len(self._buffers))
        return self._made[key]

    def add(self, a: Tensor, b: Operand) -> Tensor:
        return self._binary(Code.ADD, a, b)

    def subtract(self, a: Operand, b: Tensor) -> Tensor:
        return self._binary(Code.SUB, a, b)

    def multiply(self, a: Tensor, b: Operand) -> Tensor:
        return self._binary(Code.MUL, a, b)

    def divide(self, a: Operand, b: Tensor) -> Tensor:
        return self._binary(Code.DIV, a, b)

    def maximum(self, a: Tensor, b: Operand) -> Tensor:
        return self._binary(Code.MAXIMUM, a, b)

    def minimum(self, a: Tensor, b: Operand) -> Tensor:
        return self._binary(Code.MINIMUM, a, b)

    def relu(self, x: Tensor) -> Tensor:
        return self._operate(Code.RELU, [x], x.shape)

    def relu6(self, x: Tensor) -> Tensor:
        return self._operate(Code.RELU6, [x], x.shape)

    def leaky_relu(self, x: Tensor, slope: float) -> Tensor:
        return self._operate(Code.LEAKY_RELU, [x], x.shape, slope=float(slope))

    def softmax(self, x: Tensor) -> Tensor:
        """Over the last axis."""
        return self._operate(Code.SOFTMAX, [x], x.shape, beta=1.0)

    def tanh(self, x: Tensor) -> Tensor:
        return self._operate(Code.TANH, [x], x.shape)

    def logistic(self, x: Tensor) -> Tensor:
        return self._operate(Code.LOGISTIC, [x], x.shape)

    def exp(self, x: Tensor) -> Tensor:
        return self._operate(Code.EXP, [x], x.shape)

    def log(self, x: Tensor) -> Tensor:
        return self._operate(Code.LOG, [x], x.shape)

    def rsqrt(self, x: Tensor) -> Tensor:
        return self._operate(Code.RSQRT, [x], x.shape)

    def sqrt(self, x: Tensor) -> Tensor:
        return self._operate(Code.SQRT, [x], x.shape)

    def cos(self, x: Tensor) -> Tensor:
        return self._operate(Code.COS, [x], x.shape)

    def to_float(self, ids: Tensor) -> Tensor:
        """Ids as numbers: exact, since there are no more than float32 can tell apart."""
        return self._operate(Code.CAST, [ids], ids.shape, from_type=INT32)

    def sum(self, x: Tensor, *axes: int) -> Tensor:
        """The sum over `axes`, which stay in the shape with size 1."""
        if math.prod(x.shape[axis] for axis in axes) <= _TERMS:
            return self._reduce(Code.SUM, x, axes)
        for axis in axes:
            x = self._sum_along(x, axis)
        return x

    def reduce_max(self, x: Tensor, *axes: int) -> Tensor:
        """The maximum over `axes`, which stay in the shape with size 1."""
        return self._reduce(Code.REDUCE_MAX, x, axes)

    def matmul(self, a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
        """The product of two matrices; either may be a batch of them, `[*batch, rows, columns]`, or both."""
        batch = max(a.shape[:-2], b.shape[:-2], key=len)
        shape = (*batch, a.shape[-1 if transpose_a else -2], b.shape[-2 if transpose_b else -1])
        return self._operate(Code.BATCH_MATMUL, [a, b], shape, transpose_a=transpose_a, transpose_b=transpose_b)

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        shape = tuple(shape)
        return (
            x if shape == x.shape else self._operate(Code.RESHAPE, [x, self._integers(shape)], shape, new_shape=shape)
        )

    def transpose(self, x: Tensor, *axes: int) -> Tensor:
        """`x` with its axes in another order."""
        return self._operate(Code.TRANSPOSE, [x, self._integers(axes)], [x.shape[axis] for axis in axes])

    def pad(self, x: Tensor, pads: Mapping[int, tuple[int, int]], value: float = 0.0) -> Tensor:
        """`x` with so many more entries of `value` before and after, along each of some axes."""
        pads = {axis: pad for axis, pad in pads.items() if any(pad)}
        if not pads:
            return x
        last = max(pads)
        inner = math.prod(x.shape[last + 1 :])  # XNNPACK copies row by row: let them be long
        folded = self.reshape(x, (*x.shape[:last], x.shape[last] * inner))
        table = [pads.get(axis, (0, 0)) for axis in range(last)] + [tuple(count * inner for count in pads[last])]
        shape = [size + sum(pad) for size, pad in zip(folded.shape, table, strict=True)]
        _check_size(shape, np.float32)
        inputs = [folded, self.constant(np.array(table, np.int32))]
        if value == 0.0:
            padded = self._operate(Code.PAD, inputs, shape)
        else:
            padded = self._operate(Code.PADV2, [*inputs, self._scalar(value)], shape)
        return self.reshape(padded, (*shape[:-1], shape[-1] // inner, *x.shape[last + 1 :]))

    def slice(self, x: Tensor, axis: int, begin: int, size: int) -> Tensor:
        """`size` entries from `begin` on along one axis."""
        if size == x.shape[axis]:
            return x
        begins, sizes = [0] * len(x.shape), list(x.shape)
        begins[axis], sizes[axis] = begin, size
        return self._operate(Code.SLICE, [x, self._integers(begins), self._integers(sizes)], sizes)

    def reverse(self, x: Tensor, axis: int) -> Tensor:
        """`x` in reversed order along one axis. (tflite-runtime 2.14 fails with several.)"""
        return self._operate(Code.REVERSE_V2, [x, self._integers([axis])], x.shape)

    def gather(self, rows: Tensor, ids: Tensor) -> Tensor:
        """For each of `ids`, int32 of any shape, its entry of the first axis of `rows`, which must have one."""
        return self._operate(Code.GATHER, [rows, ids], (*ids.shape, *rows.shape[1:]))

    def scatter(self, ids: Tensor, rows: Tensor, count: int) -> Tensor:
        """`count` rows: each the sum of those of `rows` `[n, ...]` whose entry of `ids`, int32 `[n]`, is its number."""
        shape = (count, *rows.shape[1:])
        column = self.reshape(ids, (ids.size, 1))
        return self._operate(Code.SCATTER_ND, [column, rows, self._integers(shape)], shape)

    def concatenate(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        if len(parts) == 1:
            return parts[0]
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self._operate(Code.CONCATENATION, parts, shape, axis=axis)

    def convolve(
        self, x: Tensor, filters: Tensor, bias: Tensor, strides: tuple[int, int], *, same: bool = False
    ) -> Tensor:
        """`x` `[n, h, w, c]` with `filters` `[out, height, width, c]` and `bias` `[out]`."""
        out, height, width, _ = filters.shape
        return self._slide(Code.CONV_2D, [x, filters, bias], (height, width), strides, out, same=same)

    def convolve_each(
        self,
        x: Tensor,
        filters: Tensor,
        bias: Tensor,
        strides: tuple[int, int] = (1, 1),
        *,
        dilations: tuple[int, int] = (1, 1),
        same: bool = False,
    ) -> Tensor:
        """`x` `[n, h, w, c]`, each channel with filters of its own: `filters` `[1, height, width, c times some]`.

        `dilations` are the distances between neighbouring entries of a filter.
        """
        out = filters.shape[3]
        size = [(entries - 1) * apart + 1 for entries, apart in zip(filters.shape[1:3], dilations, strict=True)]
        attributes: dict[str, Attribute] = {"depth_multiplier": out // x.shape[3]}
        if dilations != (1, 1):
            attributes |= {"dilation_height": dilations[0], "dilation_width": dilations[1]}
        return self._slide(
            Code.DEPTHWISE_CONV_2D, [x, filters, bias], (size[0], size[1]), strides, out, same=same, **attributes
        )

    def fully_connect(self, x: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
        """The matrix `x` `[n, k]` times the transpose of `rows` `[out, k]`, plus `bias` `[out]`."""
        return self._operate(Code.FULLY_CONNECTED, [x, rows, bias], (x.shape[0], rows.shape[0]))

    def max_pool(self, x: Tensor, size: tuple[int, int], strides: tuple[int, int], *, same: bool) -> Tensor:
        return self._pool(Code.MAX_POOL_2D, x, size, strides, same=same)

    def average_pool(self, x: Tensor, size: tuple[int, int], strides: tuple[int, int], *, same: bool) -> Tensor:
        """The mean of each window, padding left out."""
        return self._pool(Code.AVERAGE_POOL_2D, x, size, strides, same=same)

    def live_bytes(self) -> int:
        """Bytes of the constants, and of the values that are held at once, at most, while operators run in order."""
        last = {number: step for step, row in enumerate(self._operators) for number in row.inputs}
        made = {row.output for row in self._operators}
        sizes = [math.prod(row.shape) * np.dtype(row.dtype).itemsize for row in self._tensors]
        held = most = self._constant_bytes + sum(sizes[tensor.index] for tensor in self._inputs.values())
        for step, row in enumerate(self._operators):
            held += sizes[row.output]
            most = max(most, held)
            held -= sum(sizes[number] for number in made.intersection(row.inputs) if last[number] == step)
        return most

    def finish(self, signature: str, outputs: Mapping[str, Tensor]) -> bytes:
        """The file, with one signature that takes all inputs and returns `outputs`."""
        inputs = {name: tensor.index for name, tensor in self._inputs.items()}
        returned = {name: tensor.index for name, tensor in outputs.items()}
        return pack_file(self._tensors, self._operators, self._buffers, inputs, returned, signature)

    def _binary(self, code: Code, a: Operand, b: Operand) -> Tensor:
        a, b = (operand if isinstance(operand, Tensor) else self._scalar(operand) for operand in (a, b))
        a, b = self._widen(a, b.shape), self._widen(b, a.shape)
        return self._operate(code, [a, b], np.broadcast_shapes(a.shape, b.shape))

    def _widen(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """`x`, to be repeated to `shape`, repeated along the last axis but one: XNNPACK repeats row by row, and is slow
        if they are short."""
        width, channels = shape[-2] if len(shape) > 2 else 1, shape[-1]
        is_narrow = 1 < x.shape[-1] == channels < _NARROW and x.shape[-2:-1] in ((), (1,))
        if width == 1 or not is_narrow or x.size * width * _FEW > math.prod(shape):
            return x
        return self._operate(
            Code.MUL, [x, self.constant(np.ones((width, 1), np.float32))], (*x.shape[:-2], width, channels)
        )

    def _reduce(self, code: Code, x: Tensor, axes: Sequence[int]) -> Tensor:
        if all(x.shape[axis] == 1 for axis in axes):
            return x
        shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        return self._operate(code, [x, self._integers(axes)], shape, keep_axes=True)

    def _sum_along(self, x: Tensor, axis: int) -> Tensor:
        before, terms, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
        shape, outer, inner = (*before, 1, *after), math.prod(before), math.prod(after)
        while terms > 2 * _TERMS:
            size = _group_size(terms)
            groups = -(-terms // size)
            rows = self.pad(self.reshape(x, (outer, terms, inner)), {1: (0, groups * size - terms)})
            x, terms = self._reduce(Code.SUM, self.reshape(rows, (outer, groups, size, inner)), (2,)), groups
        return self.reshape(self._reduce(Code.SUM, self.reshape(x, (*before, terms, *after)), (axis,)), shape)

    def _pool(self, code: Code, x: Tensor, size: tuple[int, int], strides: tuple[int, int], *, same: bool) -> Tensor:
        return self._slide(code, [x], size, strides, x.shape[3], same=same, height=size[0], width=size[1])

    def _slide(
        self,
        code: Code,
        inputs: Sequence[Tensor],
        size: tuple[int, int],
        strides: tuple[int, int],
        out: int,
        *,
        same: bool,
        **attributes: Attribute,
    ) -> Tensor:
        """Windows of `size` that move by `strides` over images, and make `out` channels."""
        n, *lengths, _ = inputs[0].shape
        places = [
            -(-length // stride) if same else (length - window) // stride + 1
            for length, window, stride in zip(lengths, size, strides, strict=True)
        ]
        attributes |= {"padding": _SAME if same else _VALID, "stride_height": strides[0], "stride_width": strides[1]}
        return self._operate(code, inputs, (n, *places, out), **attributes)

    def _operate(self, code: Code, inputs: Sequence[Tensor], shape: Sequence[int], **attributes: Attribute) -> Tensor:
        self._requests += 1
        if self._requests > _MAX_REQUESTS:
            raise TaskError(f"the network's graph asks for more than {_MAX_REQUESTS} operators, many of them twice")
        key = (code, tuple(inputs), tuple(attributes.items()))
        if key not in self._made:
            if len(self._operators) == MAX_OPERATORS:
                raise TaskError(f"the network's graph needs more than {MAX_OPERATORS} operators")
            dtype = inputs[0].dtype if code is Code.RESHAPE else np.float32  # of ids nothing else makes ids
            output = self._made[key] = self._tensor(shape, dtype=dtype)
            numbers = tuple(tensor.index for tensor in inputs)
            self._operators.append(OperatorRow(code, numbers, output.index, attributes))
        return self._made[key]

    def _tensor(
        self, shape: Sequence[int], *, name: str = "", dtype: type[np.generic] = np.float32, buffer: int = 0
    ) -> Tensor:
        tensor = Tensor(len(self._tensors), tuple(map(int, shape)), dtype)
        _check_size(tensor.shape, dtype)
        self._tensors.append(TensorRow(name or f"t{tensor.index}", tensor.shape, dtype, buffer))
        return tensor

    def _scalar(self, value: float) -> Tensor:
        return self.constant(np.full(1, value, np.float32))

    def _integers(self, values: Sequence[int]) -> Tensor:
        return self.constant(np.array(values, np.int32))


def _group_size(terms: int) -> int:
    """The number of terms that one stage of a sum adds up: one that divides them, so that nothing must be padded."""
    sizes = (size for size in range(_TERMS // 4, 2 * _TERMS + 1) if terms % size == 0)
    return min(sizes, key=lambda size: abs(size - _TERMS), default=_TERMS)


def _check_size(shape: Sequence[int], dtype: type[np.generic]) -> None:
    if math.prod(shape) * np.dtype(dtype).itemsize > MAX_TENSOR_BYTES:
        raise TaskError(f"the network's graph needs a tensor of more than {MAX_TENSOR_BYTES} bytes")
