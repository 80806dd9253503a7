"""From what was trained to what is sent: the delta, the residual, the bytes.

A device has no room for many copies of a large model. So only values that the mask keeps are computed with, each
tensor's in one dimension, and whole tensors come and go one after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from edge_agent.local_round import PreparedUpdate
from edge_agent.trainers import Trained
from edge_agent.trainers.divergence import TrainingDiverged
from fedprune.codecs import (
    NO_HISTORY,
    NOTHING_MOVED,
    Codec,
    History,
    Key,
    Update,
    alive_sizes,
    check_magnitudes,
    encode_signs,
    encode_update,
)
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Array, Mask, TensorClass, TensorTable, Weights
from fedprune.pruning.masks import put_kept, take_kept
from fedprune.pruning.regrowth import Votes


@dataclass(frozen=True, eq=False)
class Learned:
    """All that is sent of a round's training, which takes no base model and no trained one to hold.

    `delta`: trained minus base weights, by the names of the prunable and dense tensors, float32, one dimension: the
    values that `mask` keeps. `statistics`: those tensors as they are. `votes`: the trainer's.
    """

    delta: Weights
    statistics: Weights
    mask: Mask
    votes: Votes = field(default_factory=dict)


def take_delta(base: Weights, trained: Trained, table: TensorTable) -> Learned:
    """Take from `trained` what was learned since `base`, the global model that training started from."""
    delta = {}
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found when it is sent
        for spec in table.of(TensorClass.PRUNABLE, TensorClass.DENSE):
            moved = _kept(trained.weights[spec.name], trained.mask, spec.name)
            delta[spec.name] = moved - _kept(base[spec.name], trained.mask, spec.name)
    statistics = {spec.name: trained.weights[spec.name] for spec in table.of(TensorClass.STATISTICS)}
    return Learned(delta, statistics, trained.mask, trained.votes)


def prepare_update(
    learned: Learned,
    residual: Weights | None,
    table: TensorTable,
    codec: Codec,
    key: Key,
    known_mask: Mask | None,
    moved: Mask = NOTHING_MOVED,
    history: History = NO_HISTORY,
) -> PreparedUpdate:
    """Compress and encode what was learned, where the trained mask keeps weights.

    Statistics travel as they are, without residual: moments are pooled, never added up.

    Args:
        learned: what came of the training.
        residual: what is owed from earlier rounds, for prunable and dense tensors; None if nothing is.
        table: the task's tensor table.
        codec: the one that the gateway asks for.
        key: the update's.
        known_mask: the gateway's mask; None where the agent chose its own, which then travels along.
        moved: where the global model has moved since the run began, if the codec asks.
        history: the agent's, if the codec remembers. It is coded by that where that takes fewer bytes.

    Raises:
        TrainingDiverged: a number is not finite, or beyond what a gateway takes (`check_magnitudes`).
    """
    delta, mask = learned.delta, learned.mask
    _check(Update(delta, learned.statistics, mask), table)
    owed = codec.init(table) if residual is None else _owed(residual, learned)
    del residual  # the caller does not hold it either
    sent = codec.compress(delta, owed, key)
    arrived = codec.arrived(sent, alive_sizes(table, mask), key)
    _check(Update(arrived, {}, mask), table)  # it may be rounded up
    signs = encode_signs(arrived, mask, table) if codec.remembers else b""
    del arrived
    encode = partial(
        encode_update,
        sent,
        learned.statistics,
        mask,
        table,
        codec,
        mask_is_known=known_mask is not None,
        moved=moved,
        votes=learned.votes,
    )
    blob, shared = encode(), None
    if history.parts and len(by_history := encode(history=history)) < len(blob):
        blob, shared = by_history, blob
    del encode
    if_accepted = sent.state
    del sent
    if_late = codec.defer(delta, owed, key)
    return PreparedUpdate(blob, _Whole(if_accepted, mask, table), _Whole(if_late, mask, table), shared, signs, mask)


def _owed(residual: Weights, learned: Learned) -> dict[str, Array]:
    """What the mask still keeps of the residual."""
    return {name: _kept(residual[name], learned.mask, name) for name in learned.delta if name in residual}


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
