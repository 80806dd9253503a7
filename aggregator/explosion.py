"""The last guard of a merge: a model whose held-out loss explodes is not kept."""

from __future__ import annotations

import math

from fedprune.task.evaluation import LossScale

FACTOR = 4.0
"""With updates of unusual norms, a loss may be so many times that of the model before, or of an answer that is the same
for all examples."""

HONEST_FACTOR = 25.0
"""With updates of usual norms, it may be so many times. Honest merges can be bad: one agent that has nearly one class
only made it 8 times as much, in a round to which no other came."""


def has_exploded(loss: float, before: float, scale: LossScale, *, are_usual: bool) -> bool:
    """Judge the held-out loss of a merged model.

    Args:
        loss: of the merged model; NaN or infinite if its outputs are.
        before: the largest that the model had before, or would have without the merge.
        scale: of the task's losses on the held-out examples. Where they have a ceiling, an exploded model need not
            reach it: with updates that are not usual, half the way is enough.
        are_usual: the norms of the updates are, by what was known when the round opened.

    Example:
        >>> has_exploded(9.5, before=0.6, scale=LossScale(constant=2.3, ceiling=16.1), are_usual=False)
        True
        >>> has_exploded(9.5, before=0.6, scale=LossScale(constant=2.3, ceiling=16.1), are_usual=True)
        False
    """
    usual = max(before, scale.constant)
    limit = HONEST_FACTOR * usual if are_usual else min(FACTOR * usual, (usual + scale.ceiling) / 2)
    return not math.isfinite(loss) or loss > limit
