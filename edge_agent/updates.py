"""From what was trained to what is sent: the delta, the residual, the bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edge_agent.trainers import Trained
from edge_agent.trainers.divergence import TrainingDiverged
from fedprune.codecs import ErrorFeedback, Update, Values, check_magnitudes, decode_update, encode_update
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Array, Mask, TensorClass, TensorTable, Weights
from fedprune.pruning.masks import apply_mask

_NORM_CAP_DELTAS = 2.0
"""A residual's norm is capped at this many norms of the round's own delta."""


@dataclass(frozen=True, eq=False)
class PreparedUpdate:
    """An update's bytes, and the residual that the agent will hold once it knows what became of them.

    If accepted, the agent owes what the codec lost. If late, it owes everything, up to the cap.
    """

    blob: bytes
    residual_if_accepted: Weights
    residual_if_late: Weights


def prepare_update(
    base: Weights,
    trained: Trained,
    residual: Weights | None,
    table: TensorTable,
    values: Values,
    known_mask: Mask | None,
) -> PreparedUpdate:
    """Encode trained - base + residual, where the trained mask keeps weights.

    Statistics travel as they are, without residual: moments are pooled, never added up. The cap of the residual is
    taken of the part of the delta that the mask keeps: what was pruned in this round was not learned in it.

    Args:
        base: the global model that training started from, by tensor name.
        trained: what came of it.
        residual: what is owed from earlier rounds, for each prunable and dense tensor; None if nothing is.
        table: the task's tensor table.
        values: the value scheme that the gateway asks for.
        known_mask: the gateway's mask; None where the agent chose its own, which then travels along.

    Raises:
        TrainingDiverged: a number is not finite, or beyond what a gateway takes (`check_magnitudes`).
    """
    trainable = [spec.name for spec in table.of(TensorClass.PRUNABLE, TensorClass.DENSE)]
    statistics = {spec.name: trained.weights[spec.name] for spec in table.of(TensorClass.STATISTICS)}

    def compress(wanted: Weights) -> tuple[bytes, Weights]:
        update = Update(wanted, statistics, trained.mask)
        _check(update, table)
        blob = encode_update(update, table, values, mask_is_known=known_mask is not None)
        decoded = decode_update(blob, table, known_mask, values)
        _check(decoded, table)  # a value at the bound may have been rounded beyond it
        return blob, decoded.delta

    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found by the check
        delta = apply_mask({name: trained.weights[name] - base[name] for name in trainable}, trained.mask)
        feedback = ErrorFeedback(norm_cap=_NORM_CAP_DELTAS * _norm(delta))
        sent = feedback.send(compress, delta, residual or feedback.initial(delta), trained.mask)
    if_late = feedback.capped({name: sent.decoded[name] + sent.residual[name] for name in trainable})
    return PreparedUpdate(sent.payload, sent.residual, if_late)


def _check(update: Update, table: TensorTable) -> None:
    try:
        check_magnitudes(update, table)
    except ProtocolError as error:
        raise TrainingDiverged(f"its update's {error}") from error


def _norm(tensors: dict[str, Array]) -> float:
    return math.sqrt(sum(float(np.sum(np.square(array, dtype=np.float64))) for array in tensors.values()))
