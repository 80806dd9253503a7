"""The global model: what agents decode. It is what is pruned, evaluated, checkpointed and exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aggregator.round_state import Model
from aggregator.server_optimizers import mask_state
from fedprune.codecs import (
    NOTHING_MOVED,
    NOTHING_SENT,
    Codec,
    Values,
    apply_delta,
    decode_model,
    delta_key,
    encode_delta,
    encode_model,
    moved_since,
)
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Mask, Weights, weights_digest
from fedprune.pruning.sparse_weights import SparseWeights
from fedprune.task.bundle import Task
from fedprune.task.checkpoints import Checkpoint
from fedprune.task.forms import Form, Forms
from fedprune.task.succession import following_version
from fedprune.task.versions import mask_of_version, regrown_mask
from fedprune.wire.transfer import content_of

NO_STATE: Weights = MappingProxyType({})
"""That of a gateway without a server optimizer."""


@dataclass(frozen=True, eq=False)
class GlobalModel:
    """A checkpoint, its bytes on the wire, and the delta that leads to it from the version before, if there is one."""

    checkpoint: Checkpoint
    blob: bytes
    delta: bytes | None = None

    @property
    def model(self) -> Model:
        """The model as agents are told of it: its content and the digest of its weights."""
        return Model(content_of(self.blob), bytes.fromhex(weights_digest(self.checkpoint.weights)))


def new_model(
    weights: Weights,
    task: Task,
    run: str,
    version: int,
    values: Values,
    previous: Mask,
    optimizer_state: Weights = NO_STATE,
    form: Form | None = None,
    scores: Weights | None = None,
    votes: Mapping[str, NDArray[np.int64]] | None = None,
) -> GlobalModel:
    """Prune initial or merged weights to the schedule; what agents decode of them is the model of this version.

    Args:
        weights: float32, by tensor name in table order, of all the network's units, as all other tensors here.
        task: gives the tensor table, the schedule and the allocation.
        run: the run's id, for the checkpoint.
        version: how many rounds were merged; the schedule's clock follows from it.
        values: the value scheme that models travel in.
        previous: where weights may still be kept: everywhere at first, then what the merge says.
        optimizer_state: what the server optimizer leaves to the next round; it is pruned with the weights.
        form: the version's, to which all is cut; None if the task's network keeps its shape.
        scores: what weights are worth, if not their magnitudes: see `mask_of_version`.
        votes: sums of agents' votes for weights that `previous` prunes to come back; None where none does.

    Returns:
        The model as agents have it once they put the task's frozen tensors to what they decode, with the unrounded
        weights, and its bytes.
    """
    mask: Mask = mask_of_version(task, version, weights, previous, scores)
    if votes is not None:
        mask = regrown_mask(task, version, weights, mask, previous, votes)
    table, units, name, state = task.table, None, b"", optimizer_state
    if form is not None:
        table, units, name = form.task.table, form.units, form.name
        if not form.is_whole:
            weights, mask, state = form.cut_all(weights), form.cut_all(mask), form.cut_parts(state)
    state = mask_state(state, mask)
    exact = SparseWeights.of(weights, mask)
    encoded = encode_model(exact, mask, table, values)
    decoded = SparseWeights.of(table.with_unsent(decode_model(encoded, table)[0], exact), mask)
    return GlobalModel(Checkpoint(run, version, decoded, exact, mask, state, units), name + encoded)


def next_model(
    weights: Weights,
    forms: Forms,
    run: str,
    base: Checkpoint,
    values: Values,
    deltas: Codec,
    seed: int,
    optimizer_state: Weights = NO_STATE,
) -> GlobalModel:
    """The version after `base` that a delta leads to: agents that hold `base` decode it of a few bytes.

    The mask is scored on the decoded weights of `base`, which all sides hold, so that it costs nothing. What the delta
    loses is the difference between the unrounded weights and the decoded ones, and so is sent in later rounds.
    Weights that are too far away for a delta travel whole; then nothing is known of what earlier deltas sent.

    Args:
        weights: the merged ones, float32, by tensor name in table order, in the form of `base`.
        forms: the task's.
        run: the run's id, for the checkpoint.
        base: the version before.
        values: the value scheme that each version is rounded to.
        deltas: the chain.
        seed: keys what the chain draws.
        optimizer_state: what the server optimizer leaves to the next round; it is pruned with the weights.
    """
    former, version, key = forms.of(base.units), base.version + 1, delta_key(seed, base.version + 1)
    form, mask = following_version(forms, former, base.version, base.weights, base.mask)
    table, start = form.task.table, form.carried(former, base.weights)
    exact = SparseWeights.of(form.carried(former, weights), mask)
    moved, sent = moved_in(start, forms, form, deltas), base.sent if form.is_as(former) else NOTHING_SENT
    try:
        delta = encode_delta(exact, start, mask, table, deltas, key, moved, sent)
        reached = apply_delta(start, delta, mask, table, deltas, key, values, moved, sent)
    except ProtocolError:
        whole_state = forms.whole.carry_parts(former, optimizer_state)
        whole, places = former.expanded(weights), form.expanded(mask)
        return new_model(whole, forms.whole.task, run, version, values, places, whole_state, form)
    decoded = SparseWeights.of(table.with_unsent(reached.weights, exact), mask)
    state = mask_state(form.carry_parts(former, optimizer_state), mask)
    checkpoint = Checkpoint(run, version, decoded, exact, mask, state, form.units, reached.sent)
    return GlobalModel(checkpoint, form.name + reached.model + reached.sent, delta)


def moved_in(weights: Weights, forms: Forms, form: Form, codec: Codec) -> Mask:
    """Where the weights of a version, in that form, have moved since the run began, if the codec asks."""
    return moved_since(forms.drawn_in(form), weights, form.task.table) if codec.asks_what_moved else NOTHING_MOVED


def restored_model(checkpoint: Checkpoint, task: Task, values: Values, form: Form | None = None) -> GlobalModel:
    """A version from its checkpoint, which may be in a form of the task: encoding what was decoded gives the same bytes
    again."""
    task, name = (task, b"") if form is None else (form.task, form.name)
    encoded = encode_model(checkpoint.weights, checkpoint.mask, task.table, values)
    return GlobalModel(checkpoint, name + encoded + checkpoint.sent)
