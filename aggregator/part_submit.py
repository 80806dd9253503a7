"""A sub-gateway's submit: what its agents said beside their updates, together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from aggregator.agents_evaluation import evaluated_together
from aggregator.book import AcceptedUpdate
from fedprune.errors import TrainingError
from fedprune.task.bundle import Task
from fedprune.wire.messages import Submit
from fedprune.wire.transfer import content_of

_MOST_EXAMPLES = 2**31 - 1
"""Of a submit."""


def part_submit(run: str, round_: int, part: bytes, updates: Mapping[str, AcceptedUpdate], task: Task) -> Submit:
    """Say of a partial sum what an agent says of its update.

    Means are weighted by examples, as the updates are. Memory and inputs' magnitude are the largest, the time that of
    the slowest, the steps the lower median.

    Args:
        run: the parent's.
        round_: the round's number.
        part: the partial sum.
        updates: those that are in it, by agent; one at least.
        task: what was trained.

    Raises:
        TrainingError: together they weigh more than a submit can say.
    """
    of_it = updates.values()
    examples = sum(update.weight for update in of_it)
    if examples > _MOST_EXAMPLES:
        raise TrainingError(
            f"round {round_ + 1}: the updates weigh {examples} examples together, and a part {_MOST_EXAMPLES} at most; "
            "lower rounds.cohort"
        )
    return Submit(
        run=run,
        round=round_,
        update=content_of(part),
        examples=examples,
        local_steps=statistics.median_low([update.counted_steps for update in of_it]),
        loss=sum(update.loss * update.weight for update in of_it) / examples,
        train_hundredths=round(100 * max(update.train_seconds for update in of_it)),
        idle_memory_mb=round(max(update.idle_memory_mb for update in of_it)),
        peak_memory_mb=round(max(update.peak_memory_mb for update in of_it)),
        x_mean=sum(update.x_mean * update.weight for update in of_it) / examples,
        x_largest=max(update.x_largest for update in of_it),
        evaluated=evaluated_together(updates, task),
    )
