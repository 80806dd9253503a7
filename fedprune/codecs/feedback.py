"""Error feedback: what a lossy compressor loses in one round is sent in a later one.

Seide et al. 2014 ("1-bit stochastic gradient descent"); Karimireddy et al. 2019 ("Error feedback fixes signSGD",
algorithm 1, arXiv 1901.09847).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedprune.model.tensors import Array, Mask, Weights, euclidean_norm
from fedprune.pruning.masks import zero_pruned

Compressor = Callable[[Weights], tuple[bytes, dict[str, Array]]]
"""Encodes tensors, perhaps with a loss: the payload, and what a receiver decodes from it, in arrays of its own."""


@dataclass(frozen=True, eq=False)
class Sent:
    """A payload, what the receiver makes of it (`decoded`), and what is still owed (`residual`)."""

    payload: bytes
    decoded: dict[str, Array]
    residual: dict[str, Array]


@dataclass(frozen=True)
class ErrorFeedback:
    """Sends values + residual through a lossy compressor; the new residual is what the receiver did not get of it.

    `norm_cap` bounds the residual's Euclidean norm over all tensors: a longer one is scaled down to it, so that
    what one bad round leaves behind cannot drown later ones.

    Example:
        >>> def whole_numbers(wanted: Weights) -> tuple[bytes, dict[str, Array]]:
        ...     return b"", {name: np.rint(array) for name, array in wanted.items()}
        >>> feedback, values = ErrorFeedback(norm_cap=1.0), {"bias": np.array([0.4], np.float32)}
        >>> first = feedback.send(whole_numbers, values, feedback.initial(values), mask={})
        >>> second = feedback.send(whole_numbers, values, first.residual, mask={})
        >>> float(first.decoded["bias"][0]), float(second.decoded["bias"][0])
        (0.0, 1.0)
    """

    norm_cap: float

    def initial(self, values: Weights) -> dict[str, Array]:
        """The residual of a sender that owes nothing yet: zeros of the shapes of `values`, which take no memory."""
        return {name: np.broadcast_to(np.float32(0.0), array.shape) for name, array in values.items()}

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
        wanted = {name: np.asarray(array + residual[name]) for name, array in values.items()}
        zero_pruned(wanted, mask)
        payload, decoded = compress(wanted)
        owed = wanted
        for name, array in owed.items():
            array -= decoded[name]
        self.cap(owed)
        return Sent(payload, decoded, owed)

    def cap(self, residual: Weights) -> None:
        """Scale `residual` down to `norm_cap` in place, if its norm over all tensors exceeds it."""
        norm = euclidean_norm(residual)
        if not norm <= self.norm_cap:
            for array in residual.values():
                array *= np.float32(self.norm_cap / norm)
