"""The operators of a .tflite file, as far as XNNPACK's sparse kernels care for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency.sparse_kernels import Filter, Operator, SparseKernels, judge_operators
from fedprune.runtime.tflite import one_line

_FLOATS = {0: np.dtype("<f4"), 1: np.dtype("<f2")}
"""TensorType's codes of the floating-point weights that XNNPACK takes."""
_NAME = 40
"""Characters of an operator's name that are shown: a converter joins the names of all that it fused."""


def find_sparse_kernels(model: Path) -> SparseKernels | None:
    """See `SparseKernels`; None where no reader of TFLite's schema is installed, or the file is not a converter's.

    Give it only files that a runtime has loaded.
    """
    if find_spec("ai_edge_litert") is None:
        return None
    try:
        return judge_operators(read_operators(model.read_bytes()))
    except Exception:  # whatever a reader of flatbuffers raises on offsets that lead nowhere
        return None


def read_operators(content: bytes) -> list[Operator]:
    """The operators of the first graph, PAD before a convolution taken as its padding."""
    from ai_edge_litert import schema_py_generated as schema  # 10 MB that a benchmark without models does without

    reader = _Reader(schema, content)
    operators = list(reader.operators())
    pads = {each.outputs[0]: each for each in operators if each.kind == "PAD" and each.padding is not None}
    padded = [_padded(each, pads) for each in operators]
    needed = {value for each in padded for value in each.inputs}
    return [each for each in padded if each.kind != "PAD" or each.outputs[0] in needed]


def _padded(operator: Operator, pads: dict[int, Operator]) -> Operator:
    pad = pads.get(operator.inputs[0]) if operator.inputs else None
    if pad is None or pad.padding is None or operator.padding != (0, 0, 0, 0) or operator.filter is None:
        return operator
    return replace(operator, padding=pad.padding, inputs=pad.inputs)


class _Reader:
    def __init__(self, schema: Any, content: bytes) -> None:
        self._schema = schema
        self._model = schema.Model.GetRootAs(content)
        self._graph = self._model.Subgraphs(0)
        self._kinds = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
        self._constants: dict[int, int] = {}
        """Where the data of a constant are: it may go through DENSIFY and DEQUANTIZE before a convolution has it."""

    def operators(self) -> Iterator[Operator]:
        for index in range(self._graph.OperatorsLength()):
            operator = self._graph.Operators(index)
            kind = self._kind(operator)
            inputs = [int(number) for number in operator.InputsAsNumpy() if number >= 0]
            if kind in ("DENSIFY", "DEQUANTIZE") and self._source(inputs[0]) is not None:
                self._constants[int(operator.Outputs(0))] = self._constants.get(inputs[0], inputs[0])
                continue
            yield self._described(operator, kind, inputs)

    def _kind(self, operator: Any) -> str:
        code = self._model.OperatorCodes(operator.OpcodeIndex())
        return str(self._kinds.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "CUSTOM"))

    def _described(self, operator: Any, kind: str, inputs: list[int]) -> Operator:
        outputs = tuple(int(number) for number in operator.OutputsAsNumpy())
        result = self._graph.Tensors(outputs[0])
        plain = Operator(
            kind=kind,
            name=one_line(result.Name().decode(errors="replace"))[:_NAME],
            inputs=tuple(number for number in inputs if self._source(number) is None),
            outputs=outputs,
            axes=result.ShapeLength(),
        )
        complete: dict[str, Callable[[Operator, Any, list[int]], Operator]] = {
            "CONV_2D": self._convolution,
            "DEPTHWISE_CONV_2D": self._convolution,
            "MEAN": self._mean,
            "PAD": self._pad,
        }
        return complete[kind](plain, operator, inputs) if kind in complete else plain

    def _convolution(self, plain: Operator, operator: Any, inputs: list[int]) -> Operator:
        is_depthwise = plain.kind == "DEPTHWISE_CONV_2D"
        options = (self._schema.DepthwiseConv2DOptions if is_depthwise else self._schema.Conv2DOptions)()
        table = operator.BuiltinOptions()
        options.Init(table.Bytes, table.Pos)
        stride = (options.StrideH(), options.StrideW())
        kernel = self._filter(inputs[1])
        return replace(
            plain,
            filter=kernel,
            stride=stride,
            dilation=(options.DilationHFactor(), options.DilationWFactor()),
            padding=self._padding(options.Padding(), stride, kernel),
            depth_multiplier=options.DepthMultiplier() if is_depthwise else 1,
        )

    def _padding(self, scheme: int, stride: tuple[int, int], kernel: Filter | None) -> tuple[int, int, int, int] | None:
        if scheme == self._schema.Padding.VALID or kernel is None:
            return (0, 0, 0, 0)
        if stride != (1, 1):
            return None
        height, width = (size - 1 for size in kernel.size)
        return (height // 2, height - height // 2, width // 2, width - width // 2)

    def _filter(self, number: int) -> Filter | None:
        source = self._source(number)
        if source is None:
            return None
        tensor = self._graph.Tensors(source)
        _, height, width, channels = (int(size) for size in tensor.ShapeAsNumpy())
        count = int(np.prod(tensor.ShapeAsNumpy()))
        dtype = _FLOATS.get(tensor.Type())
        stored = 0 if dtype is None else int(np.count_nonzero(self._data(source).view(dtype)))
        return Filter(
            (height, width), channels, count, count - stored, dtype is not None, tensor.Sparsity() is not None
        )

    def _mean(self, plain: Operator, _: Any, inputs: list[int]) -> Operator:
        axes = {int(axis) % self._graph.Tensors(inputs[0]).ShapeLength() for axis in self._data(inputs[1]).view("<i4")}
        return replace(plain, is_spatial_mean=axes == {1, 2})

    def _pad(self, plain: Operator, _: Any, inputs: list[int]) -> Operator:
        widths = self._data(inputs[1]).view("<i4").reshape(-1, 2).tolist()
        fits = len(widths) == 4 and widths[0] == widths[3] == [0, 0]
        return replace(plain, padding=(*widths[1], *widths[2]) if fits else None)

    def _source(self, number: int) -> int | None:
        """The constant tensor that holds a value's data; None for a value that is computed."""
        number = self._constants.get(number, number)
        return number if self._model.Buffers(self._graph.Tensors(number).Buffer()).DataLength() else None

    def _data(self, number: int) -> Any:
        return self._model.Buffers(self._graph.Tensors(number).Buffer()).DataAsNumpy()
