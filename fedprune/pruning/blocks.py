"""Block sparsity: weights that lie side by side go together, as TF-MOT's `block_size` has it.

A kernel is seen as a matrix of all but its last axis by its last, the outputs: a block of 1 x 4 is of four outputs that
take the same input. TF-MOT 0.8.1 (`pruning_impl.Pruning`, `block_pooling_type="AVG"`) does this for kernels of two axes
alone. Where a size is no multiple the last blocks are smaller; TF-MOT then scores windows that are shifted against the
blocks that they prune, and so chooses others.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Array

Block = tuple[int, int]
"""Rows and columns of a block."""

BlockSize = Annotated[int, msgspec.Meta(ge=1, le=64)]
"""One of these. No kernel of a runtime takes larger ones."""

_Scalar = TypeVar("_Scalar", np.float32, np.bool_)

SINGLE: Block = (1, 1)
"""Each weight for itself."""


def pool_magnitudes(array: Array, kept: NDArray[np.bool_], block: Block) -> Array:
    """The mean magnitude of each block; what is pruned counts as 0.

    Args:
        array: float32, any shape of one axis at least.
        kept: bool, of that shape.
        block: rows and columns.

    Returns:
        float32 `[rows of blocks, columns of blocks]`. Sums are taken in a fixed order, hence alike on every machine.

    Example:
        >>> pool_magnitudes(np.float32([[1, -3, 5, 5, 2]]), np.ones((1, 5), np.bool_), (1, 4)).tolist()
        [[3.5, 2.0]]
    """
    magnitudes = _grid(np.where(kept, np.abs(array), np.float32(0.0)), block)
    present = _grid(np.ones(array.shape, np.float32), block)
    sums, counts = np.zeros(magnitudes.shape[::2], np.float32), np.zeros(magnitudes.shape[::2], np.float32)
    for row in range(block[0]):
        for column in range(block[1]):
            sums += magnitudes[:, row, :, column]
            counts += present[:, row, :, column]
    return sums / counts


def pool_kept(kept: NDArray[np.bool_], block: Block) -> NDArray[np.bool_]:
    """True for each block of which a weight is kept; of the shape that `pool_magnitudes` returns."""
    return np.asarray(_grid(kept, block).any(axis=(1, 3)))


def spread(pooled: NDArray[np.bool_], shape: tuple[int, ...], block: Block) -> NDArray[np.bool_]:
    """Give each weight of a tensor of `shape` what its block has.

    Example:
        >>> spread(np.array([[True, False]]), (1, 5), (1, 4)).tolist()
        [[True, True, True, True, False]]
    """
    columns = shape[-1]
    whole = pooled.repeat(block[0], axis=0).repeat(block[1], axis=1)
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    return whole[:rows, :columns].reshape(shape)


def _grid(array: NDArray[_Scalar], block: Block) -> NDArray[_Scalar]:
    """`[rows of blocks, rows of one, columns of blocks, columns of one]`, filled up with zeros."""
    matrix = array.reshape(-1, array.shape[-1])
    rows, columns = (-(-size // of_block) for size, of_block in zip(matrix.shape, block, strict=True))
    filled = np.zeros((rows * block[0], columns * block[1]), array.dtype)
    filled[: matrix.shape[0], : matrix.shape[1]] = matrix
    return filled.reshape(rows, block[0], columns, block[1])
