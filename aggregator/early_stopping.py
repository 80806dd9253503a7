"""The end of a run before its last round: when models no longer become better."""

from __future__ import annotations

from collections.abc import Sequence

from aggregator.best_model import goodness
from aggregator.book import RoundRecord
from fedprune.pruning.schedules import Schedule, steps_to_reach_target


def has_settled(
    records: Sequence[RoundRecord], patience: int, schedules: Sequence[Schedule], clock_steps_per_round: int
) -> bool:
    """True once `patience` models in a row were no better than one before them, by the first metric or the loss.

    Models from before the schedules have pruned as far as they will do not count: they are better for being denser.

    Args:
        records: those of all rounds; the model of version v is what v rounds made.
        patience: 1 or more.
        schedules: the task's; `clock_steps_per_round` of its steps make a round.
    """
    pruned_at = max(map(_pruned_at, schedules))
    pruned = [record for record in records if record.evaluated_version * clock_steps_per_round >= pruned_at]
    found = [value for value in map(goodness, pruned) if value is not None]
    return bool(found) and len(found) - 1 - found.index(max(found)) >= patience


def _pruned_at(schedule: Schedule) -> int:
    """The global steps after which it has pruned as far as it will."""
    needed = steps_to_reach_target(schedule)
    return schedule.end_step if needed is None else needed
