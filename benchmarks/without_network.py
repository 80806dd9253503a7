"""Parts of federations that run in one process: what the gateway's runner would make of a round, without a network."""

from __future__ import annotations

import math

from aggregator.acceptance import accepted_update
from aggregator.book import AcceptedUpdate, RoundRecord
from aggregator.global_model import GlobalModel
from aggregator.round_merge import MergedRound, Merger
from aggregator.segments import write_segment
from fedprune.system.disk import Disk
from fedprune.task.bundle import Bundle
from fedprune.task.training import Training
from fedprune.wire.messages import WEIGHTS_DIGEST_BYTES, Assignment, Submit, Terms
from fedprune.wire.transfer import content_of

RUN = "abcd"
_ENOUGH_S = 10**9


def assignment_of(bundle: Bundle, model: GlobalModel, *, seed: int, codec: str, model_codec: str = "") -> Assignment:
    """The work of the model's round, for an agent that fetches the model whole."""
    version = model.checkpoint.version
    return Assignment(
        run=RUN,
        incarnation=1,
        round=version,
        weights_digest=model.model.weights_digest[:WEIGHTS_DIGEST_BYTES],
        seconds_left=_ENOUGH_S,
        model=model.model.content,
        terms=Terms(
            task=content_of(bundle.blob),
            seed=seed,
            clock_steps=bundle.task.training.clock_steps_per_round,
            codec=codec,
            model_codec=model_codec,
        ),
    )


def take_update(
    merger: Merger, disk: Disk, model: GlobalModel, agent: str, submit: Submit, blob: bytes, training: Training
) -> AcceptedUpdate:
    """Take an agent's update to `model` into the round, as a gateway does."""
    norms = merger.take(blob, agent, model, submit.examples).norms
    places = write_segment(disk, submit.round, {agent: blob})
    return accepted_update(submit, submit.examples, norms, training, places[agent])


def record_of(round_: int, merged: MergedRound) -> RoundRecord:
    """The record of a round, as far as later merges look at it; bytes, times and memory are 0."""
    evaluation = merged.evaluation
    return RoundRecord(
        round=round_, agents=0, evaluated_version=merged.evaluated_version,
        loss=evaluation.loss if math.isfinite(evaluation.loss) else None,
        metrics=dict(evaluation.metrics), spreads=merged.spreads, sparsity=0.0, bytes_up=0, bytes_down=0, seconds=0.0,
        train_seconds=0.0, train_loss=0.0, ignored=0, refused=0, capped=0, peak_memory_mb=0.0, kept=merged.kept,
        left_out=len(merged.left_out), outliers=tuple(merged.left_out), suspects=(), delta_norm=merged.norms.delta,
        statistics_norm=merged.norms.statistics,
    )  # fmt: skip
