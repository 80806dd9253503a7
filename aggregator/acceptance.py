"""From an agent's submit to the book's entry."""

from __future__ import annotations

from aggregator.book import AcceptedUpdate
from aggregator.local_work import counted_steps
from aggregator.outliers import Norms
from aggregator.segments import Place
from fedprune.task.training import Training
from fedprune.wire.messages import Submit


def accepted_update(submit: Submit, weight: int, norms: Norms, training: Training, place: Place) -> AcceptedUpdate:
    """An update that was checked, with its norms, as the book has it. It weighs `weight` examples."""
    return AcceptedUpdate(
        digest=submit.content.digest,
        size=submit.content.size,
        weight=weight,
        loss=submit.loss,
        train_seconds=submit.train_hundredths / 100,
        idle_memory_mb=submit.idle_memory_mb,
        peak_memory_mb=submit.peak_memory_mb,
        x_mean=submit.x_mean,
        x_largest=submit.x_largest,
        delta_norm=norms.delta,
        statistics_norm=norms.statistics,
        local_steps=submit.local_steps,
        counted_steps=counted_steps(submit, weight, training),
        evaluated_examples=0 if submit.evaluated is None else submit.evaluated.examples,
        evaluated_loss=None if submit.evaluated is None else submit.evaluated.loss,
        tallies=b"" if submit.evaluated is None else submit.evaluated.tallies,
        file=place.file,
        place=place.at,
    )


def accepted_statistics(submit: Submit, weight: int) -> AcceptedUpdate:
    """A device's statistics that were checked, as the book has them. They weigh `weight` examples."""
    return AcceptedUpdate(
        digest=submit.content.digest,
        size=submit.content.size,
        weight=weight,
        loss=0.0,
        train_seconds=0.0,
        idle_memory_mb=submit.idle_memory_mb,
        peak_memory_mb=submit.peak_memory_mb,
        x_mean=0.0,
        x_largest=0.0,
        delta_norm=0.0,
        statistics_norm=0.0,
        local_steps=submit.local_steps,
        counted_steps=submit.local_steps,
    )
