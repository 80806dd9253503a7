"""The global model: what agents decode. It is what is pruned, evaluated, checkpointed and exported."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from aggregator.round_state import Model
from aggregator.server_optimizers import mask_state
from fedprune.codecs import (
    NOTHING_MOVED,
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
from fedprune.network.description import Network
from fedprune.pruning.masks import apply_mask
from fedprune.task.bundle import Task
from fedprune.task.checkpoints import Checkpoint
from fedprune.task.versions import mask_after, mask_of_version
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
) -> GlobalModel:
    """Prune initial or merged weights to the schedule; what agents decode of them is the model of this version.

    Args:
        weights: float32, by tensor name in table order.
        task: gives the tensor table, the schedule and the allocation.
        run: the run's id, for the checkpoint.
        version: how many rounds were merged; the schedule's clock follows from it.
        values: the value scheme that models travel in.
        previous: where weights may still be kept: everywhere at first, then what the merge says.
        optimizer_state: what the server optimizer leaves to the next round; it is pruned with the weights.

    Returns:
        The model as agents have it once they put the task's frozen tensors to what they decode, with the unrounded
        weights, and its bytes.
    """
    mask = mask_of_version(task, version, weights, previous)
    exact = apply_mask(weights, mask)
    blob = encode_model(exact, mask, task.table, values)
    decoded, _ = decode_model(blob, task.table)
    state = mask_state(optimizer_state, mask)
    return GlobalModel(Checkpoint(run, version, task.table.with_unsent(decoded, exact), exact, mask, state), blob)


def next_model(
    weights: Weights,
    task: Task,
    network: Network,
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
    Weights that are too far away for a delta travel whole.

    Args:
        weights: the merged ones, float32, by tensor name in table order.
        task: gives the tensor table, the schedules and the allocation.
        network: the task's.
        run: the run's id, for the checkpoint.
        base: the version before.
        values: the value scheme that each version is rounded to.
        deltas: the chain.
        seed: keys what the chain draws.
        optimizer_state: what the server optimizer leaves to the next round; it is pruned with the weights.
    """
    table, version = task.table, base.version + 1
    mask = mask_after(task, network, base.version, base.weights, base.mask)
    exact, key = apply_mask(weights, mask), delta_key(seed, version)
    moved = moved_in(base.weights, task, deltas)
    try:
        delta = encode_delta(exact, base.weights, mask, table, deltas, key, moved)
        decoded, blob = apply_delta(base.weights, delta, mask, table, deltas, key, values, moved)
    except ProtocolError:
        return new_model(weights, task, run, version, values, mask, optimizer_state)
    state = mask_state(optimizer_state, mask)
    checkpoint = Checkpoint(run, version, table.with_unsent(decoded, exact), exact, mask, state)
    return GlobalModel(checkpoint, blob, delta)


def moved_in(weights: Weights, task: Task, codec: Codec) -> Mask:
    """Where the weights of a version have moved since the run began, if the codec asks."""
    return moved_since(task.drawn_weights(), weights, task.table) if codec.asks_what_moved else NOTHING_MOVED


def restored_model(checkpoint: Checkpoint, task: Task, values: Values) -> GlobalModel:
    """A version from its checkpoint: encoding what was decoded gives the same bytes again."""
    return GlobalModel(checkpoint, encode_model(checkpoint.weights, checkpoint.mask, task.table, values))
