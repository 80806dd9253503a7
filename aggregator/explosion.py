"""The last guard of a merge: a model whose held-out loss explodes is not kept."""

from __future__ import annotations

import math

from fedprune.task.evaluation import LossScale

FACTOR = 4.0
"""A loss may be so many times that of the model before, or of an answer that is the same for all examples. Honest
merges can be bad too: of agents with one or two classes each they came to 3.6 times the latter."""


def has_exploded(loss: float, before: float, scale: LossScale) -> bool:
    """Judge the held-out loss of a merged model.

    Where losses have a ceiling, which an exploded model need not reach, half the way to it is enough.

    Args:
        loss: of the merged model; NaN or infinite if its outputs are.
        before: the largest that the model had before, or would have without the merge.
        scale: of the task's losses on the held-out examples.

    Example:
        >>> has_exploded(9.5, before=0.6, scale=LossScale(constant=2.3, ceiling=16.1))
        True
        >>> has_exploded(2.5, before=0.6, scale=LossScale(constant=2.3, ceiling=16.1))
        False
    """
    usual = max(before, scale.constant)
    return not math.isfinite(loss) or loss > min(FACTOR * usual, (usual + scale.ceiling) / 2)
