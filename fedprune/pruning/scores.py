"""Scores: what a weight is worth, by which masks are chosen.

Magnitude asks nothing of anybody. Sensitivity is the first-order change of the loss when a weight becomes 0, |w dL/dw|
(Mozer and Smolensky 1989, "Skeletonization"; Lee et al. 2019, SNIP, arXiv 1810.02340; Molchanov et al. 2019, arXiv
1906.10771). In a federation the gradient of an agent is its pseudo-gradient (Reddi et al. 2021, arXiv 2003.00295,
section 2): what its round moved, which it sends anyhow, so that a sensitivity costs no byte. Only the gateway has all
of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated

import msgspec
import numpy as np

from fedprune.model.tensors import Array, Mask
from fedprune.pruning.masks import put_kept, take_kept


class Score(StrEnum):
    """What weights are compared by."""

    MAGNITUDE = "magnitude"
    """|w|."""
    SENSITIVITY = "sensitivity"
    """The sum over agents of n_k / n |w g_k|, n_k being the examples and g_k the pseudo-gradient of agent k."""
    SIGNED_SENSITIVITY = "signed-sensitivity"
    """|w times the sum over agents of n_k / n g_k|: where agents pull a weight different ways it counts for less."""


ScoreWeights = Annotated[
    dict[Score, Annotated[float, msgspec.Meta(gt=0, le=1e6)]], msgspec.Meta(min_length=2, max_length=len(Score))
]
"""Scores that are fused, and how much the rank by each counts."""


def fuse_ranks(scores: Sequence[tuple[Mapping[str, Array], float]], mask: Mask) -> dict[str, Array]:
    """Weighted means of ranks, since scores of different kinds have no common scale (Borda's count).

    Args:
        scores: float32 by tensor name, of the shapes of `mask`, and how much each counts.
        mask: ranked are the weights that it keeps, of all tensors together; of equal ones the first is worth more.

    Returns:
        float32 by tensor name: above 0 and up to 1, and 0 where `mask` prunes. Sums are of float64, in the order of
        `scores`, hence alike on every machine.

    Example:
        >>> every = {"kernel": np.ones(3, np.bool_)}
        >>> first, second = {"kernel": np.float32([3, 1, 2])}, {"kernel": np.float32([0.1, 0.5, 0.3])}
        >>> fused = fuse_ranks([(first, 3.0), (second, 1.0)], every)["kernel"]
        >>> [round(float(each), 2) for each in fused]
        [0.83, 0.5, 0.67]
    """
    counts = {name: int(np.count_nonzero(kept)) for name, kept in mask.items()}
    ranks, total = np.zeros(sum(counts.values())), sum(weight for _, weight in scores)
    for each, weight in scores:
        flat = np.concatenate([*(take_kept(each[name], kept) for name, kept in mask.items()), np.empty(0, np.float32)])
        worst_first = np.argsort(flat[::-1], kind="stable")
        places = np.empty(len(flat), np.int64)
        places[worst_first] = np.arange(1, len(flat) + 1)
        ranks += places[::-1] * (weight / total)
    fused = (ranks / max(len(ranks), 1)).astype(np.float32)
    ends = np.cumsum([*counts.values()])[:-1]
    return {name: put_kept(part, mask[name]) for name, part in zip(mask, np.split(fused, ends), strict=True)}
