"""Tensors in TensorFlow Lite's sparse encoding, made dense again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder
from numpy.typing import NDArray

from export.sparse_encoding import densify


def _encoding(order: Sequence[int], blocks: Sequence[int], levels: Sequence[int | tuple[list[int], list[int]]]) -> Any:
    """SparsityParameters as a file holds them: a level is a dense size, or segments and indices."""
    wanted = schema.SparsityParametersT()
    wanted.traversalOrder, wanted.blockMap, wanted.dimMetadata = list(order), list(blocks), []
    for level in levels:
        metadata = schema.DimensionMetadataT()
        if isinstance(level, int):
            metadata.format, metadata.denseSize = schema.DimensionType.DENSE, level
        else:
            metadata.format = schema.DimensionType.SPARSE_CSR
            metadata.arraySegmentsType = metadata.arrayIndicesType = schema.SparseIndexVector.Uint8Vector
            metadata.arraySegments, metadata.arrayIndices = schema.Uint8VectorT(), schema.Uint8VectorT()
            metadata.arraySegments.values, metadata.arrayIndices.values = level
        wanted.dimMetadata.append(metadata)
    builder = Builder()
    builder.Finish(wanted.Pack(builder))
    return schema.SparsityParameters.GetRootAs(builder.Output())


def _stored(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("encoding", "stored"),
    [
        (_encoding([0, 1], [], [3, ([0, 1, 1, 3], [2, 0, 3])]), _stored(5, 6, 7)),
        (_encoding([1, 0], [], [4, ([0, 1, 1, 2, 3], [2, 0, 2])]), _stored(6, 5, 7)),
        (_encoding([0, 1, 2], [1], [3, ([0, 1, 1, 3], [1, 0, 1]), 2]), _stored(5, 0, 6, 0, 0, 7)),
        (_encoding([0, 1], [], [3, 4]), _stored(0, 0, 5, 0, 0, 0, 0, 0, 6, 0, 0, 7)),
    ],
    ids=["rows", "columns", "blocks of 1x2", "dense"],
)
def test_values_come_back_to_their_places(encoding: Any, stored: NDArray[np.float32]) -> None:
    assert densify(stored, (3, 4), encoding).tolist() == [[0, 0, 5, 0], [0, 0, 0, 0], [6, 0, 0, 7]]
