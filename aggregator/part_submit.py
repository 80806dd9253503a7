"""A sub-gateway's submit: its partial sum, and what its agents said beside their updates, together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import msgspec

from aggregator.agents_evaluation import evaluated_together
from aggregator.book import AcceptedUpdate
from aggregator.merging import Aggregate
from aggregator.partial_sum import encode_partial_sum
from fedprune.errors import TrainingError
from fedprune.task.bundle import Task
from fedprune.wire.examples import MOST_SUBMITTED
from fedprune.wire.messages import Submit
from fedprune.wire.transfer import content_of


def submitted_part(
    run: str, round_: int, sums: Aggregate, weights_digest: str, updates: Mapping[str, AcceptedUpdate], task: Task
) -> tuple[Submit, bytes]:
    """The partial sum as bytes, and what is said of it: what an agent says of its update.

    Means are weighted by examples, as the updates are. Memory and inputs' magnitude are the largest, the time that of
    the slowest, the steps the lower median. The tallies are in the part, where there is room for those of any cohort.

    Args:
        run: the parent's.
        round_: the round's number.
        sums: of the updates.
        weights_digest: that of the weights that the updates are to.
        updates: those that are in it, by agent; one at least.
        task: what was trained.

    Raises:
        TrainingError: together they weigh more than a submit can say.
    """
    of_it = updates.values()
    examples = sum(update.weight for update in of_it)
    if examples > MOST_SUBMITTED:
        raise TrainingError(
            f"round {round_ + 1}: the updates weigh {examples} examples together, and a part {MOST_SUBMITTED} at most; "
            "lower rounds.cohort"
        )
    evaluated = evaluated_together(updates, task)
    tallies = b"" if evaluated is None else evaluated.tallies
    part = encode_partial_sum(sums, bytes.fromhex(weights_digest), tallies)
    submit = Submit(
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
        evaluated=None if evaluated is None else msgspec.structs.replace(evaluated, tallies=b""),
    )
    return submit, part
