"""Random rotation: values become alike in size before they are quantised, so that the largest costs the others less.

Konecny et al. 2016 ("Federated learning: strategies for improving communication efficiency", section 3, arXiv
1610.05492), with the randomised Hadamard transform of Suresh et al. 2017 (arXiv 1611.00429).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedprune.codecs.hadamard import draw_signs, rotate_rows
from fedprune.codecs.links import Choose, Key, Restore, Sizes, State, Stateless, Support, Tensors, Vector

_LARGEST_BLOCK = 2**12
"""Values that are rotated together: more of them mix no better, and take longer."""


@dataclass(frozen=True)
class Rotation(Stateless):
    """Turns each tensor's values into Hadamard coefficients of them under random signs.

    Blocks are powers of two: as many of 4,096 as there are, then the binary parts of what is left. So there are as many
    coefficients as values.

    Example:
        >>> link, key, values = Rotation(), Key(1, 0, "pi-1"), {"bias": np.float32([8, 0, 0, 0])}
        >>> sent, support, _ = link.apply(values, {}, {}, key)
        >>> _, restore = link.invert({"bias": 4}, key, lambda *_: support)
        >>> np.abs(sent["bias"]).tolist(), np.abs(restore(sent)["bias"]).tolist()
        ([4.0, 4.0, 4.0, 4.0], [8.0, 0.0, 0.0, 0.0])
    """

    def apply(self, tensors: Tensors, support: Support, state: State, key: Key) -> tuple[Tensors, Support, State]:
        stream = key.stream("rotation")
        rotated = {name: _in_blocks(vector * draw_signs(stream, vector.size)) for name, vector in tensors.items()}
        return rotated, support, state

    def invert(self, sizes: Sizes, key: Key, choose: Choose) -> tuple[Sizes, Restore]:  # noqa: ARG002
        def restore(tensors: Tensors) -> dict[str, Vector]:
            stream = key.stream("rotation")
            return {name: _in_blocks(vector) * draw_signs(stream, vector.size) for name, vector in tensors.items()}

        return sizes, restore


def _in_blocks(vector: Vector) -> Vector:
    rotated = np.empty_like(vector)
    start, block = 0, _LARGEST_BLOCK
    while start < vector.size:
        rows = (vector.size - start) // block
        if rows:
            end = start + rows * block
            rotated[start:end] = rotate_rows(vector[start:end].reshape(rows, block, 1)).reshape(-1)
            start = end
        block //= 2
    return rotated
