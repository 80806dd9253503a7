"""A graph as the bytes of a TFLite file: the part of its FlatBuffers schema that our graphs use.

Slots and codes are those of TensorFlow Lite's schema, version 3 (tensorflow/compiler/mlir/lite/schema/schema.fbs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from flatbuffers import Builder
from numpy.typing import NDArray

_SCHEMA_VERSION = 3
_IDENTIFIER = b"TFL3"
_ALIGNMENT = 16
"""Bytes that constants are aligned to: vector instructions read so many at once."""
_LARGEST_OLD_CODE = 127
"""Operator codes above this do not fit the field that old runtimes read."""

INT32 = 2
"""The schema's number of a type; that of float32 is 0."""

Attribute = bool | int | float | tuple[int, ...]
"""A value in an operator's options."""


class Code(IntEnum):
    """The operators that our graphs are made of: all in version 1, which every runtime has."""

    ADD = 0
    AVERAGE_POOL_2D = 1
    CONCATENATION = 2
    CONV_2D = 3
    DEPTHWISE_CONV_2D = 4
    FULLY_CONNECTED = 9
    LOGISTIC = 14
    MAX_POOL_2D = 17
    MUL = 18
    RELU = 19
    RELU6 = 21
    RESHAPE = 22
    SOFTMAX = 25
    TANH = 28
    PAD = 34
    GATHER = 36
    TRANSPOSE = 39
    SUB = 41
    DIV = 42
    EXP = 47
    CAST = 53
    MAXIMUM = 55
    MINIMUM = 57
    PADV2 = 60
    SLICE = 65
    LOG = 73
    SUM = 74
    SQRT = 75
    RSQRT = 76
    REDUCE_MAX = 82
    LEAKY_RELU = 98
    COS = 108
    REVERSE_V2 = 105
    SCATTER_ND = 122
    BATCH_MATMUL = 126


@dataclass(frozen=True)
class TensorRow:
    """A tensor of the file: float32 or int32, with the number of the buffer that holds its values, or 0."""

    name: str
    shape: tuple[int, ...]
    dtype: type[np.generic] = np.float32
    buffer: int = 0


@dataclass(frozen=True)
class OperatorRow:
    """An operator of the file; tensors by their numbers. `attributes` are those of its options that are not 0."""

    code: Code
    inputs: tuple[int, ...]
    output: int
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True)
class _Field:
    """A field of a table, left out where its value is the schema's default. A `byte` is one of its enums."""

    slot: int
    default: bool | int | float = 0
    byte: bool = False


_WINDOW = {"padding": _Field(0, byte=True), "stride_width": _Field(1), "stride_height": _Field(2)}
_OPTIONS: dict[Code, tuple[int, Mapping[str, _Field]]] = {
    Code.CONV_2D: (1, _WINDOW),
    Code.DEPTHWISE_CONV_2D: (
        2,
        _WINDOW
        | {
            "depth_multiplier": _Field(3),
            "dilation_width": _Field(5, default=1),
            "dilation_height": _Field(6, default=1),
        },
    ),
    Code.AVERAGE_POOL_2D: (5, _WINDOW | {"width": _Field(3), "height": _Field(4)}),
    Code.MAX_POOL_2D: (5, _WINDOW | {"width": _Field(3), "height": _Field(4)}),
    Code.FULLY_CONNECTED: (8, {"keep_axes": _Field(2, default=False)}),
    Code.SOFTMAX: (9, {"beta": _Field(0, default=0.0)}),
    Code.CONCATENATION: (10, {"axis": _Field(0)}),
    Code.ADD: (11, {}),
    Code.RESHAPE: (17, {"new_shape": _Field(0)}),
    Code.MUL: (21, {}),
    Code.PAD: (22, {}),
    Code.GATHER: (23, {}),
    Code.TRANSPOSE: (26, {}),
    Code.SUM: (27, {"keep_axes": _Field(0, default=False)}),
    Code.REDUCE_MAX: (27, {"keep_axes": _Field(0, default=False)}),
    Code.SUB: (28, {}),
    Code.DIV: (29, {}),
    Code.EXP: (33, {}),
    Code.CAST: (37, {"from_type": _Field(0, byte=True), "to_type": _Field(1, byte=True)}),
    Code.MAXIMUM: (39, {}),
    Code.MINIMUM: (39, {}),
    Code.PADV2: (43, {}),
    Code.SLICE: (48, {}),
    Code.LEAKY_RELU: (75, {"slope": _Field(0, default=0.0)}),
    Code.REVERSE_V2: (81, {}),
    Code.SCATTER_ND: (97, {}),
    Code.BATCH_MATMUL: (101, {"transpose_a": _Field(0, default=False), "transpose_b": _Field(1, default=False)}),
}
"""The operators' options: their number in the schema's union, and their fields by names of ours. The others have
none."""


def pack_file(
    tensors: Sequence[TensorRow],
    operators: Sequence[OperatorRow],
    buffers: Sequence[NDArray[Any]],
    inputs: Mapping[str, int],
    outputs: Mapping[str, int],
    signature: str,
) -> bytes:
    """The file, with one signature. Equal arguments give equal bytes. Buffer 0 is empty: `buffers` are 1, 2, …"""
    builder = Builder(sum(array.nbytes for array in buffers) + 1024)
    codes = {code: number for number, code in enumerate(dict.fromkeys(operator.code for operator in operators))}
    operator_codes = [
        _table(builder, (_Field(0, byte=True), min(code, _LARGEST_OLD_CODE)), (_Field(3), int(code))) for code in codes
    ]
    packed_buffers = [_table(builder), *(_buffer(builder, array) for array in buffers)]
    packed_tensors = [_tensor(builder, row) for row in tensors]
    packed_operators = [_operator(builder, row, codes) for row in operators]
    packed_signature = _signature(builder, inputs, outputs, signature)
    subgraph = _subgraph(builder, packed_tensors, packed_operators, tuple(inputs.values()), tuple(outputs.values()))
    vectors = {
        1: _offsets(builder, operator_codes),
        2: _offsets(builder, [subgraph]),
        4: _offsets(builder, packed_buffers),
        7: _offsets(builder, [packed_signature]),
    }
    model = _table(builder, (_Field(0), _SCHEMA_VERSION), offsets=vectors)
    builder.Finish(model, _IDENTIFIER)
    return bytes(builder.Output())


def _buffer(builder: Builder, array: NDArray[Any]) -> int:
    data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    builder.Prep(_ALIGNMENT, len(data))
    return _table(builder, offsets={0: builder.CreateByteVector(data)})


def _tensor(builder: Builder, row: TensorRow) -> int:
    offsets = {0: _integers(builder, row.shape), 3: builder.CreateString(row.name)}
    kind = INT32 if row.dtype is np.int32 else 0
    has_rank = (_Field(8, default=False), True)
    return _table(builder, (_Field(1, byte=True), kind), (_Field(2), row.buffer), has_rank, offsets=offsets)


def _operator(builder: Builder, row: OperatorRow, codes: Mapping[Code, int]) -> int:
    offsets = {1: _integers(builder, row.inputs), 2: _integers(builder, (row.output,))}
    kind, fields = _OPTIONS.get(row.code, (0, {}))
    if kind:
        values = [(fields[name], value) for name, value in row.attributes.items()]
        vectors = {field.slot: _integers(builder, value) for field, value in values if isinstance(value, tuple)}
        scalars = [(field, value) for field, value in values if not isinstance(value, tuple)]
        offsets[4] = _table(builder, *scalars, offsets=vectors)
    return _table(builder, (_Field(0), codes[row.code]), (_Field(3, byte=True), kind), offsets=offsets)


def _subgraph(
    builder: Builder, tensors: list[int], operators: list[int], inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> int:
    offsets = {
        0: _offsets(builder, tensors),
        1: _integers(builder, inputs),
        2: _integers(builder, outputs),
        3: _offsets(builder, operators),
        4: builder.CreateString("main"),
    }
    return _table(builder, offsets=offsets)


def _signature(builder: Builder, inputs: Mapping[str, int], outputs: Mapping[str, int], name: str) -> int:
    maps = {}
    for slot, names in enumerate((inputs, outputs)):
        rows = [(builder.CreateString(key), number) for key, number in names.items()]
        maps[slot] = _offsets(builder, [_table(builder, (_Field(1), number), offsets={0: key}) for key, number in rows])
    return _table(builder, offsets=maps | {2: builder.CreateString(name)})


def _integers(builder: Builder, values: tuple[int, ...]) -> int:
    offset: int = builder.CreateNumpyVector(np.array(values, np.int32))
    return offset


def _offsets(builder: Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    end: int = builder.EndVector()
    return end


def _table(
    builder: Builder, *fields: tuple[_Field, bool | int | float], offsets: Mapping[int, int] | None = None
) -> int:
    """A table of scalars and of offsets to what was written before, by their slots."""
    offsets = offsets or {}
    slots = [*(field.slot for field, _ in fields), *offsets]
    builder.StartObject(max(slots, default=-1) + 1)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for field, value in fields:
        if isinstance(value, bool):
            builder.PrependBoolSlot(field.slot, value, field.default)
        elif isinstance(value, float):
            builder.PrependFloat32Slot(field.slot, value, field.default)
        elif field.byte:
            builder.PrependInt8Slot(field.slot, value, field.default)
        else:
            builder.PrependInt32Slot(field.slot, value, field.default)
    end: int = builder.EndObject()
    return end
