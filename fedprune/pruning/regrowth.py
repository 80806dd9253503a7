"""Regrowth: pruned weights come back where the loss would fall fastest, and as many small ones go in their place.

RigL (Evci et al. 2020, arXiv 1911.11134, section 3): after some steps a fraction of each layer's weights, those of the
smallest magnitude, is exchanged for pruned ones of the largest gradient magnitude, which start at 0. In a federation
(FedDST, Bibikar et al. 2022, arXiv 2112.09824) each agent names such weights, and all of them together choose.

The gradient of a pruned weight is what an agent's optimizer moved it by in the last step of its round: with SGD the
learning rate times the gradient, averaged over the last steps by the momentum. It is there anyhow, since steps move
pruned weights too before the mask makes them 0 again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Mask, Weights
from fedprune.pruning.masks import largest

LARGEST_VOTE = 127
"""The vote for the weight of a tensor that moved the most."""

_MOST_ROUNDS = 2**31

Votes = Mapping[str, NDArray[np.int8]]
"""An agent's, by tensor: one for each pruned weight, row by row; 0 for one that it does not name."""


class Regrowth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The exchange of weights: every `every_rounds` rounds before `until_round`, at first nearly a `fraction` of each
    tensor's.

    The fraction falls as half a cosine, alpha/2 (1 + cos(t pi / T_end)), to 0 after `until_round` rounds (section 3 of
    Evci et al. 2020, "Update schedule").
    """

    fraction: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    every_rounds: Annotated[int, msgspec.Meta(ge=1, lt=_MOST_ROUNDS)]
    until_round: Annotated[int, msgspec.Meta(ge=1, lt=_MOST_ROUNDS)]

    def fraction_at(self, version: int) -> float:
        """The fraction of each tensor's weights that is exchanged when so many rounds are done, in [0, 1).

        It is rounded to float32: C libraries differ in the last digits of cosines, and sides must not.

        Example:
            >>> regrowth = Regrowth(fraction=0.4, every_rounds=2, until_round=8)
            >>> [round(regrowth.fraction_at(version), 3) for version in range(9)]
            [0.0, 0.0, 0.341, 0.0, 0.2, 0.0, 0.059, 0.0, 0.0]
        """
        if not 0 < version < self.until_round or version % self.every_rounds:
            return 0.0
        return float(np.float32(self.fraction / 2 * (1.0 + math.cos(math.pi * version / self.until_round))))


def most_votes(mask: Mask, fraction: float) -> dict[str, int]:
    """The number of pruned weights of each tensor that an agent may name: as many as may come back.

    Args:
        mask: the one that agents train with.
        fraction: of its weights that are exchanged.

    Returns:
        By tensor, 1 at least; those of which no weight can come back are left out.

    Example:
        >>> most_votes({"kernel": np.array([True] * 10 + [False] * 40), "dense": np.array([True])}, 0.3)
        {'kernel': 3}
    """
    counts = {name: (kept.size, int(np.count_nonzero(kept))) for name, kept in mask.items()}
    most = {name: min(round(fraction * alive), size - alive) for name, (size, alive) in counts.items()}
    return {name: count for name, count in most.items() if count}


def votes_for(moved: Weights, mask: Mask, most: Mapping[str, int]) -> dict[str, NDArray[np.int8]]:
    """An agent's votes for the pruned weights that moved the most.

    They are relative to the largest of their tensor, so that no agent outvotes others by its numbers.

    Args:
        moved: float32, by tensor name, as the last step left them: a pruned weight is what that step moved it by.
        mask: the one that was trained with.
        most: what `most_votes` says of it.

    Returns:
        For each tensor of `most` int8, one for each weight that `mask` prunes, in [-127, 127]: 0 for all but the
        largest magnitudes, and for those that are too small beside them.

    Example:
        >>> mask = {"kernel": np.array([True, False, False, False])}
        >>> votes_for({"kernel": np.float32([9, 0.1, -0.2, 0.05])}, mask, {"kernel": 2})["kernel"].tolist()
        [64, -127, 0]
    """
    return {name: _votes(moved[name].reshape(-1)[~mask[name].reshape(-1)], count) for name, count in most.items()}


def _votes(moved: NDArray[np.float32], count: int) -> NDArray[np.int8]:
    magnitudes = np.abs(moved)
    scale = float(magnitudes.max(initial=0.0))
    votes = np.zeros(moved.size, np.int8)
    if not scale > 0.0:
        return votes
    chosen = largest(magnitudes, count)
    votes[chosen] = np.rint(moved[chosen].astype(np.float64) * (LARGEST_VOTE / scale))
    return votes


def regrow(
    weights: Weights, mask: Mask, previous: Mask, votes: Mapping[str, NDArray[np.int64]], fraction: float
) -> dict[str, NDArray[np.bool_]]:
    """Exchange weights: those of the smallest magnitude go, and as many come back.

    Args:
        weights: float32, by tensor name.
        mask: their mask as the schedule wants it.
        previous: the one that agents voted with, which prunes nothing that `mask` keeps.
        votes: sums of votes by tensor, int64, one for each weight that `previous` prunes.
        fraction: of each tensor's kept weights that are exchanged at most.

    Returns:
        A mask of the same shapes that keeps as many weights of each tensor as `mask`. Of weights of one magnitude the
        last ones go, of those of as many votes the first ones come back; those without any stay pruned.

    Example:
        >>> mask = {"kernel": np.array([True, True, False, False])}
        >>> votes = {"kernel": np.array([-3, 5])}
        >>> regrow({"kernel": np.float32([0.1, 2, 0, 0])}, mask, mask, votes, 0.5)["kernel"].tolist()
        [False, True, False, True]
    """
    return {
        name: _regrown(np.abs(weights[name]), kept, previous[name], votes[name], fraction) if name in votes else kept
        for name, kept in mask.items()
    }


def _regrown(
    magnitudes: NDArray[np.float32],
    kept: NDArray[np.bool_],
    previous: NDArray[np.bool_],
    votes: NDArray[np.int64],
    fraction: float,
) -> NDArray[np.bool_]:
    alive = int(np.count_nonzero(kept))
    count = min(round(fraction * alive), int(np.count_nonzero(votes)))
    new = largest(np.where(kept, magnitudes, np.float32(-1.0)).reshape(-1), alive - count)
    back = np.flatnonzero(~previous.reshape(-1))[largest(np.abs(votes).astype(np.uint64), count)]
    new[back] = True
    return new.reshape(kept.shape)
