"""From what was trained to what is sent: the delta, the residual, the bytes.

A device has no room for many copies of a large model. So only values that the mask keeps are computed with, each
tensor's in one dimension, and whole tensors come and go one after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edge_agent.trainers import Trained
from edge_agent.trainers.divergence import TrainingDiverged
from fedprune.codecs import ErrorFeedback, Update, Values, check_magnitudes, decode_update, encode_update
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Array, Mask, TensorClass, TensorTable, Weights, euclidean_norm
from fedprune.pruning.masks import put_kept, take_kept

_NORM_CAP_DELTAS = 2.0
"""A residual's norm is capped at this many norms of the round's own delta."""


@dataclass(frozen=True, eq=False)
class Learned:
    """All that is sent of a round's training, which takes no base model and no trained one to hold.

    `delta`: trained minus base weights, by the names of the prunable and dense tensors, float32, one dimension: the
    values that `mask` keeps. `statistics`: those tensors as they are.
    """

    delta: Weights
    statistics: Weights
    mask: Mask


@dataclass(frozen=True, eq=False)
class PreparedUpdate:
    """An update's bytes, and the residual that the agent will hold once it knows what became of them.

    If accepted, the agent owes what the codec lost. If late, it owes everything, up to the cap.
    """

    blob: bytes
    residual_if_accepted: Weights
    residual_if_late: Weights


def take_delta(base: Weights, trained: Trained, table: TensorTable) -> Learned:
    """Take from `trained` what was learned since `base`, the global model that training started from."""
    delta = {}
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found when it is sent
        for spec in table.of(TensorClass.PRUNABLE, TensorClass.DENSE):
            moved = _kept(trained.weights[spec.name], trained.mask, spec.name)
            delta[spec.name] = moved - _kept(base[spec.name], trained.mask, spec.name)
    statistics = {spec.name: trained.weights[spec.name] for spec in table.of(TensorClass.STATISTICS)}
    return Learned(delta, statistics, trained.mask)


def prepare_update(
    learned: Learned,
    residual: Weights | None,
    table: TensorTable,
    values: Values,
    known_mask: Mask | None,
) -> PreparedUpdate:
    """Encode delta + residual, where the trained mask keeps weights.

    Statistics travel as they are, without residual: moments are pooled, never added up. The cap of the residual is
    taken of the part of the delta that the mask keeps: what was pruned in this round was not learned in it. It holds
    for the residual that is sent as for the one that is left: what a bad round left behind does not drown this one.

    Args:
        learned: what came of the training.
        residual: what is owed from earlier rounds, for each prunable and dense tensor; None if nothing is.
        table: the task's tensor table.
        values: the value scheme that the gateway asks for.
        known_mask: the gateway's mask; None where the agent chose its own, which then travels along.

    Raises:
        TrainingDiverged: a number is not finite, or beyond what a gateway takes (`check_magnitudes`).
    """
    delta, mask = learned.delta, learned.mask

    def compress(wanted: Weights) -> tuple[bytes, dict[str, Array]]:
        blob = _encode(wanted, learned, table, values, mask_is_known=known_mask is not None)
        decoded = decode_update(blob, table, known_mask, values)
        _check(decoded, table)  # a value at the bound may have been rounded beyond it
        return blob, {name: _kept(array, mask, name) for name, array in decoded.delta.items()}

    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found by the check
        feedback = ErrorFeedback(norm_cap=_NORM_CAP_DELTAS * euclidean_norm(delta))
        owed = feedback.initial(delta) if residual is None else _owed(residual, learned, feedback)
        del residual  # the caller does not hold it either
        sent = feedback.send(compress, delta, owed, mask={})
        if_late = sent.decoded
        for name, array in if_late.items():
            array += sent.residual[name]
        feedback.cap(if_late)
    return PreparedUpdate(sent.payload, _Whole(sent.residual, mask, table), _Whole(if_late, mask, table))


def _owed(residual: Weights, learned: Learned, feedback: ErrorFeedback) -> dict[str, Array]:
    """What the mask still keeps of the residual, up to the cap."""
    owed = {name: np.array(_kept(residual[name], learned.mask, name)) for name in learned.delta}
    feedback.cap(owed)
    return owed


def _encode(wanted: Weights, learned: Learned, table: TensorTable, values: Values, *, mask_is_known: bool) -> bytes:
    update = Update(dict(_Whole(wanted, learned.mask, table)), learned.statistics, learned.mask)
    _check(update, table)
    return encode_update(update, table, values, mask_is_known=mask_is_known)


def _check(update: Update, table: TensorTable) -> None:
    try:
        check_magnitudes(update, table)
    except ProtocolError as error:
        raise TrainingDiverged(f"its update's {error}") from error


def _kept(array: Array, mask: Mask, name: str) -> Array:
    """The values of a tensor that `mask` keeps, in one dimension: of a tensor that is kept whole, a view."""
    return take_kept(array, mask[name]) if name in mask else array.reshape(-1)


class _Whole(Mapping[str, Array]):
    """Whole tensors by name, zero where `mask` prunes. Only the values in `kept` are held: each is made when it is
    asked for."""

    def __init__(self, kept: Weights, mask: Mask, table: TensorTable) -> None:
        self._kept = kept
        self._mask = mask
        self._shapes = {spec.name: spec.shape for spec in table if spec.name in kept}

    def __getitem__(self, name: str) -> Array:
        if name in self._mask:
            return put_kept(self._kept[name], self._mask[name])
        return self._kept[name].reshape(self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)
