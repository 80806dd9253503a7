"""The global model: what agents decode. It is what is pruned, evaluated, checkpointed and exported."""

from __future__ import annotations

from dataclasses import dataclass

from aggregator.round_state import Model
from fedprune.codecs import Values, decode_model, encode_model
from fedprune.model.tensors import Mask, Weights, weights_digest
from fedprune.network.description import Network
from fedprune.pruning.masks import apply_mask, score_mask
from fedprune.slimming.pruning import mask_without_units
from fedprune.task.bundle import Task
from fedprune.task.checkpoints import Checkpoint
from fedprune.wire.transfer import content_of


@dataclass(frozen=True, eq=False)
class GlobalModel:
    """A checkpoint and its bytes on the wire."""

    checkpoint: Checkpoint
    blob: bytes

    @property
    def model(self) -> Model:
        """The model as agents are told of it: its content and the digest of its weights."""
        return Model(content_of(self.blob), bytes.fromhex(weights_digest(self.checkpoint.weights)))


def new_model(weights: Weights, task: Task, run: str, version: int, values: Values, previous: Mask) -> GlobalModel:
    """Prune initial or merged weights to the schedule; what agents decode of them is the model of this version.

    Args:
        weights: float32, by tensor name in table order.
        task: gives the tensor table, the schedule and the allocation.
        run: the run's id, for the checkpoint.
        version: how many rounds were merged; the schedule's clock follows from it.
        values: the value scheme that models travel in.
        previous: where weights may still be kept: everywhere at first, then what the merge says.

    Returns:
        The model as agents have it once they put the task's frozen tensors to what they decode, with the unrounded
        weights, and its bytes.
    """
    mask = _mask(weights, task, version, previous)
    exact = apply_mask(weights, mask)
    blob = encode_model(exact, mask, task.table, values)
    decoded, _ = decode_model(blob, task.table)
    return GlobalModel(Checkpoint(run, version, task.table.with_frozen(decoded, exact), exact, mask), blob)


def without_due_units(weights: Weights, mask: Mask, task: Task, network: Network, version: int, after: int) -> Mask:
    """The `mask` of a `version`, less the units that go before the version `after`."""
    units, steps = task.pruning.units, task.training.steps_per_round
    if units is None:
        return mask
    return mask_without_units(units, network, task.table, weights, mask, (version * steps, after * steps))


def restored_model(checkpoint: Checkpoint, task: Task, values: Values) -> GlobalModel:
    """A version from its checkpoint: encoding what was decoded gives the same bytes again."""
    return GlobalModel(checkpoint, encode_model(checkpoint.weights, checkpoint.mask, task.table, values))


def _mask(weights: Weights, task: Task, version: int, previous: Mask) -> Mask:
    """The mask in force once `version` rounds of steps are made, by the schedule's global clock."""
    sparsity = task.pruning.schedule.sparsity_in_force(version * task.training.steps_per_round)
    return score_mask(weights, task.table, sparsity, task.pruning.allocation, previous)
