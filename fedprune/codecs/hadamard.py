"""The Walsh-Hadamard transform: a rotation that takes n log n additions, and the same ones on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array


def rotate_rows(matrix: Array) -> Array:
    """Multiply by the orthonormal Hadamard matrix, which is its own inverse.

    Args:
        matrix: float32 `[..., rows, columns]`, with a power of two of rows.

    Returns:
        H @ matrix, a new array: each column keeps its Euclidean norm.

    Example:
        >>> rotate_rows(np.float32([[1], [0]])).round(3).tolist()
        [[0.7070000171661377], [0.7070000171661377]]
    """
    *leading, rows, columns = matrix.shape
    mixed = matrix * np.float32(1.0 / np.sqrt(rows))
    half = 1
    while half < rows:
        pairs = mixed.reshape(*leading, rows // (2 * half), 2, half, columns)
        first, second = pairs[..., 0, :, :], pairs[..., 1, :, :]
        mixed = np.stack([first + second, first - second], axis=-3).reshape(matrix.shape)
        half *= 2
    return mixed


def draw_signs(stream: Keyed, count: int) -> NDArray[np.float32]:
    """`count` signs, +1 or -1: the bits of integers, least significant first."""
    integers = stream.integers((count + 63) // 64).astype("<u8")
    bits = np.unpackbits(integers.view(np.uint8), bitorder="little")[:count]
    return np.where(bits, np.float32(1.0), np.float32(-1.0))
