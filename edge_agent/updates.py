"""From what was trained to what is sent: the delta, the residual, the bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edge_agent.trainers import Trained
from fedprune.codecs import ErrorFeedback, Update, Values, decode_update, encode_update
from fedprune.model.tensors import Array, Mask, TensorClass, TensorTable, Weights

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
    """Encode trained - base + residual. `known_mask` is the gateway's, or None where the agent chose its own.

    Statistics travel as they are, without residual: moments are pooled, never added up.
    """
    trainable = [spec.name for spec in table.of(TensorClass.PRUNABLE, TensorClass.DENSE)]
    statistics = {spec.name: trained.weights[spec.name] for spec in table.of(TensorClass.STATISTICS)}
    delta = {name: trained.weights[name] - base[name] for name in trainable}

    def codec(wanted: Weights) -> tuple[bytes, Weights]:
        update = Update(wanted, statistics, trained.mask)
        blob = encode_update(update, table, values, mask_is_known=known_mask is not None)
        return blob, decode_update(blob, table, known_mask, values).delta

    feedback = ErrorFeedback(norm_cap=_NORM_CAP_DELTAS * _norm(delta))
    sent = feedback.send(codec, delta, residual or feedback.initial(delta), trained.mask)
    if_late = feedback.capped({name: sent.decoded[name] + sent.residual[name] for name in trainable})
    return PreparedUpdate(sent.payload, sent.residual, if_late)


def _norm(tensors: dict[str, Array]) -> float:
    return math.sqrt(sum(float(np.sum(np.square(array, dtype=np.float64))) for array in tensors.values()))
