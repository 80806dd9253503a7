"""Counting zeros in a .tflite file: how sparse it is, not how sparse what it was made from was.

The file's constants go by other names than the model's tensors, with axes in another order. A tensor is recognised
by what conversion keeps: a pruned weight is still zero, the others keep their signs. (Folding a BatchNorm into its
convolution scales each filter, quantisation rounds.)
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from export.report import Sparsity
from export.sparse_encoding import densify
from fedprune.model.tensors import TensorClass, TensorTable, Weights

_DTYPES = {
    schema.TensorType.FLOAT32: np.dtype("<f4"),
    schema.TensorType.FLOAT16: np.dtype("<f2"),
    schema.TensorType.INT8: np.dtype("i1"),
}
"""The number formats of stored weights. TFLite's int8 weights are symmetric: 0 stands for 0."""

_ATTENTION_AXES = 3
"""Of a kernel of attention."""

_Signs = NDArray[np.int8]
"""-1, 0 or 1 for each weight, without the axes of length 1."""


def count_zeros(content: bytes, weights: Weights, table: TensorTable) -> Sparsity:
    """The sparsity of the file's prunable tensors; `weights` is the model it was made from."""
    constants = list(_constants(content))
    found = {spec.name: _recognise(_signs(weights[spec.name]), constants) for spec in table.of(TensorClass.PRUNABLE)}
    recognised = [signs for signs in found.values() if signs is not None]
    zeros = sum(int(np.sum(signs == 0)) for signs in recognised)
    return Sparsity(
        overall=zeros / max(table.prunable, 1) if len(recognised) == len(found) else None,
        by_tensor={name: None if signs is None else float(np.mean(signs == 0)) for name, signs in found.items()},
    )


def _constants(content: bytes) -> Iterator[_Signs]:
    model = schema.Model.GetRootAs(content)
    for graph in (model.Subgraphs(index) for index in range(model.SubgraphsLength())):
        for tensor in (graph.Tensors(index) for index in range(graph.TensorsLength())):
            buffer = model.Buffers(tensor.Buffer())
            if buffer.DataLength() and tensor.Type() in _DTYPES:
                values, shape = buffer.DataAsNumpy().view(_DTYPES[tensor.Type()]), tensor.ShapeAsNumpy()
                encoding = tensor.Sparsity()
                yield _signs(values.reshape(shape) if encoding is None else densify(values, shape, encoding))


def _signs(values: NDArray[Any]) -> _Signs:
    signs: _Signs = np.sign(values).astype(np.int8).squeeze()
    return signs


def _recognise(original: _Signs, constants: list[_Signs]) -> _Signs | None:
    """The constant that is `original` in one of its arrangements: of several, the one with most signs in common."""
    best, most = None, -1
    for constant in constants:
        for expected in _arrangements(original):
            if expected.shape != constant.shape:
                continue
            alike = int(np.sum(expected == constant))
            if alike > most and not constant[expected == 0].any():
                best, most = constant, alike
    return best


def _arrangements(original: _Signs) -> Iterator[_Signs]:
    """Its axes in each order. A kernel of attention may be a matrix in the file, of what it takes by heads, or of heads
    by what it makes."""
    forms = [original]
    if original.ndim == _ATTENTION_AXES:
        forms += [original.reshape(original.shape[0], -1), original.reshape(-1, original.shape[-1])]
    for form in forms:
        yield from (form.transpose(axes) for axes in permutations(range(form.ndim)))
