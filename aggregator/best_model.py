"""The best of a run's models, by what their rounds' records tell."""

from __future__ import annotations

from collections.abc import Sequence

from aggregator.book import RoundRecord
from fedprune.model.metrics import metric_named


def best_version(records: Sequence[RoundRecord]) -> int | None:
    """The version of the model that did best on the held-out examples: by the first metric, or by loss without one.

    None where nothing was measured.
    """
    measured = [(goodness(record), -record.evaluated_version) for record in records if goodness(record) is not None]
    return -max(measured)[1] if measured else None


def goodness(record: RoundRecord) -> float | None:
    """The figure that tells which of a run's models is better: the larger, the better. It is the first metric or, for a
    task without metrics, the loss. None where that is not defined."""
    if not record.metrics:
        return None if record.loss is None else -record.loss
    name, value = next(iter(record.metrics.items()))
    return value if value is None or metric_named(name).larger_is_better else -value
