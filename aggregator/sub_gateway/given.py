"""A round that the parent gives: from what was fetched for it to what this gateway's agents are given."""

from __future__ import annotations

from aggregator.global_model import restored_model
from aggregator.part_runner import GivenRound
from edge_agent.held_model import Held
from edge_agent.round_model import round_model
from fedprune.codecs import decode_replay, parse_model_codec
from fedprune.pruning.sparse_weights import SparseWeights
from fedprune.task.bundle import Bundle
from fedprune.task.checkpoints import Checkpoint
from fedprune.wire.messages import Assignment

_SHARE = 0.75
"""Of the seconds that the parent leaves for the round: the part has to be sent in the others."""

LEAST_S = 15.0
"""Seconds that agents are given at least. With less a round would end again and again, and drop each time what is on
its way; and a parent that lacks updates still waits for the part after its deadline."""


def seconds_below(left: float) -> float:
    """The seconds that agents may take where the parent leaves so many."""
    return max(LEAST_S, _SHARE * left)


def given_round(
    assignment: Assignment, fetched: bytes, bundle: Bundle, held: Held, counted: int | None, left: float
) -> GivenRound:
    """Decode the model of an assignment, and what leads to it.

    Args:
        assignment: with its terms.
        fetched: the content that it names for the model; empty if it names none.
        bundle: the task's.
        held: what this gateway holds.
        counted: the last round whose part was accepted; None for none.
        left: the seconds that the parent leaves for the round.

    Raises what `round_model` does.
    """
    model = round_model(fetched, assignment, bundle, held)
    weights = SparseWeights.of(model.weights, model.mask)
    checkpoint = Checkpoint(
        assignment.run, assignment.round, weights, weights, model.mask, units=model.form.units, sent=model.sent
    )
    values = parse_model_codec(assignment.known.model_codec).values
    left_out = assignment.left_out
    return GivenRound(
        restored_model(checkpoint, bundle.task, values, model.form),
        _deltas(assignment, fetched),
        seconds_below(left),
        None if left_out is not None and left_out.round == counted else counted,
    )


def _deltas(assignment: Assignment, fetched: bytes) -> dict[int, bytes]:
    """What leads from version to version, of a replay that led to the model; by the version that each leads to."""
    if assignment.base < 0 or not fetched:
        return {}
    deltas = decode_replay(fetched, assignment.round - assignment.base)
    return dict(enumerate(deltas, assignment.base + 1))
