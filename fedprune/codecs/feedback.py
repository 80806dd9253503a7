"""Error feedback: what a lossy compressor loses in one round is sent in a later one.

Seide et al. 2014 ("1-bit stochastic gradient descent"); Karimireddy et al. 2019 ("Error feedback fixes signSGD",
algorithm 1, arXiv 1901.09847).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedprune.model.tensors import Array, Mask, Weights
from fedprune.pruning.masks import apply_mask

Compressor = Callable[[Weights], tuple[bytes, Weights]]
"""Encodes tensors, perhaps with a loss: the payload, and what a receiver decodes from it."""


@dataclass(frozen=True, eq=False)
class Sent:
    """A payload, what the receiver makes of it (`decoded`), and what is still owed (`residual`)."""

    payload: bytes
    decoded: Weights
    residual: dict[str, Array]


@dataclass(frozen=True)
class ErrorFeedback:
    """Sends values + residual through a lossy compressor; the new residual is what the receiver did not get of it.

    `norm_cap` bounds the residual's Euclidean norm over all tensors: a longer one is scaled down to it, so that
    what one bad round leaves behind cannot drown later ones.

    Example:
        >>> def whole_numbers(wanted: Weights) -> tuple[bytes, Weights]:
        ...     return b"", {name: np.rint(array) for name, array in wanted.items()}
        >>> feedback, values = ErrorFeedback(norm_cap=1.0), {"bias": np.array([0.4], np.float32)}
        >>> first = feedback.send(whole_numbers, values, feedback.initial(values), mask={})
        >>> second = feedback.send(whole_numbers, values, first.residual, mask={})
        >>> float(first.decoded["bias"][0]), float(second.decoded["bias"][0])
        (0.0, 1.0)
    """

    norm_cap: float

    def initial(self, values: Weights) -> dict[str, Array]:
        """The residual of a sender that owes nothing yet: zeros of the shapes of `values`."""
        return {name: np.zeros_like(array) for name, array in values.items()}

    def send(self, compress: Compressor, values: Weights, residual: Weights, mask: Mask) -> Sent:
        """Encode `values` + `residual`, dropping both where `mask` prunes.

        Args:
            compress: encodes, and says what a receiver decodes.
            values: float32, by tensor name.
            residual: what is owed, with the same names and shapes.
            mask: of some of the tensors, True where a weight is kept.

        Returns:
            The payload, what arrives, and the new residual, capped.
        """
        wanted = apply_mask({name: array + residual[name] for name, array in values.items()}, mask)
        payload, decoded = compress(wanted)
        owed = {name: array - decoded[name] for name, array in wanted.items()}
        return Sent(payload, decoded, self.capped(owed))

    def capped(self, residual: dict[str, Array]) -> dict[str, Array]:
        """`residual`, or where its norm over all tensors exceeds `norm_cap`, as much of it."""
        norm = math.sqrt(sum(float(np.sum(np.square(array, dtype=np.float64))) for array in residual.values()))
        if norm <= self.norm_cap:
            return residual
        return {name: array * np.float32(self.norm_cap / norm) for name, array in residual.items()}
