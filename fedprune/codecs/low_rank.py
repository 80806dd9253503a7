"""Low rank: an update as the product of a random matrix, which both sides draw, and a small one, which is sent.

Konecny et al. 2016 ("Federated learning: strategies for improving communication efficiency", section 2, arXiv
1610.05492).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedprune.codecs.hadamard import draw_signs, rotate_rows
from fedprune.codecs.links import Choose, Key, Restore, Sizes, State, Stateless, Support, Tensors, Vector
from fedprune.model.tensors import Array


@dataclass(frozen=True)
class LowRank(Stateless):
    """Replaces each tensor's values, as a matrix X of R rows, by B = A^T X of `rank` rows; a receiver takes A B for X.

    R is the power of two at or below the root of the number of values; X is filled up with zeros. A's columns are
    orthonormal, `rank` of the R of a random rotation, drawn for each agent and round: so A B is the nearest to X of all
    products with A. The paper trains B; here it is fitted to what was trained. Where R is `rank` or less all rows are
    sent.

    Example:
        >>> link, values = LowRank(2), {"kernel": np.ones(64, np.float32)}
        >>> sent, _, _ = link.apply(values, {}, {}, Key(1, 0, "pi-1"))
        >>> sent["kernel"].size  # two rows of 8
        16
    """

    rank: int

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"low_rank({self.rank}): the rank must be 1 or more")

    def apply(self, tensors: Tensors, support: Support, state: State, key: Key) -> tuple[Tensors, Support, State]:
        fitted = {}
        for name, vector in tensors.items():
            signs, taken = self._draw(name, vector.size, key)
            columns = -(-vector.size // signs.size)
            matrix = np.zeros(signs.size * columns, np.float32)
            matrix[: vector.size] = vector
            mixed = rotate_rows(matrix.reshape(signs.size, columns) * signs[:, np.newaxis])
            fitted[name] = mixed[taken].reshape(-1)
        return fitted, support, state

    def invert(self, sizes: Sizes, key: Key, choose: Choose) -> tuple[Sizes, Restore]:  # noqa: ARG002
        drawn = {name: self._draw(name, size, key) for name, size in sizes.items()}
        columns = {name: -(-size // drawn[name][0].size) for name, size in sizes.items()}

        def restore_one(name: str, vector: Vector) -> Vector:
            signs, taken = drawn[name]
            mixed: Array = np.zeros((signs.size, columns[name]), np.float32)
            mixed[taken] = vector.reshape(taken.size, columns[name])
            matrix = rotate_rows(mixed) * signs[:, np.newaxis]
            return matrix.reshape(-1)[: sizes[name]]

        def restore(tensors: Tensors) -> dict[str, Vector]:
            return {name: restore_one(name, vector) for name, vector in tensors.items()}

        return {name: drawn[name][1].size * columns[name] for name in sizes}, restore

    def _draw(self, name: str, size: int, key: Key) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The signs of the R rows, and which rows of the rotated matrix are sent."""
        rows = 1 << (max(1, size).bit_length() - 1) // 2
        stream = key.stream(f"low rank of {name}")
        return draw_signs(stream, rows), np.sort(stream.permutation(rows)[: self.rank])
