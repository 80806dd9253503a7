"""The versions of a task's model: version v is the model that round v trains."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Mask, Weights
from fedprune.network.description import Network
from fedprune.pruning.masks import full_mask, keep_above, score_mask
from fedprune.pruning.regrowth import most_votes, regrow
from fedprune.slimming.pruning import mask_without_units
from fedprune.task.bundle import Task


def mask_of_version(
    task: Task, version: int, weights: Weights, previous: Mask, scores: Weights | None = None
) -> dict[str, NDArray[np.bool_]]:
    """The mask of a version, by the schedule's global clock: all sides compute the same bits from the same weights.

    Args:
        task: gives the tensor table, the schedule, the allocation and the blocks.
        version: how many rounds of steps are made by then.
        weights: those that are scored, by tensor name.
        previous: where weights may still be kept.
        scores: what weights are worth, if not their magnitudes: float32 by tensor name, none below 0.

    Returns:
        For each prunable tensor a bool array of its shape, True where a weight is kept.
    """
    pruning, step = task.pruning, version * task.training.clock_steps_per_round
    sparsity = pruning.schedule.sparsity_in_force(step)
    scored = weights if scores is None else scores
    mask = score_mask(scored, task.table, sparsity, pruning.allocation, previous, pruning.block)
    return keep_above(weights, mask, pruning.threshold) if _is_thresholded(task, version) else mask


def without_due_units(
    weights: Weights, mask: Mask, task: Task, network: Network, version: int, after: int
) -> dict[str, NDArray[np.bool_]]:
    """The `mask` of a `version`, less the units that go before the version `after`; of the first version both are 0."""
    units, steps = task.pruning.units, task.training.clock_steps_per_round
    if units is None:
        return dict(mask)
    return mask_without_units(units, network, task.table, weights, mask, (version * steps, after * steps))


def mask_after(
    task: Task, network: Network, version: int, weights: Weights, mask: Mask
) -> dict[str, NDArray[np.bool_]]:
    """The mask of the version after `version`, of which `weights`, frozen and local ones too, and `mask` are.

    Where nothing more is due it stays the same, as scoring it again would find: large models take long to score.
    """
    steps = task.training.clock_steps_per_round
    before, after = version * steps, (version + 1) * steps
    schedules = task.pruning.schedules
    is_same = all(schedule.sparsity_in_force(before) == schedule.sparsity_in_force(after) for schedule in schedules)
    if is_same and not _is_thresholded(task, version + 1):
        return dict(mask)
    due = without_due_units(weights, mask, task, network, version, version + 1)
    return mask_of_version(task, version + 1, weights, due)


def first_mask(task: Task, network: Network, weights: Weights) -> dict[str, NDArray[np.bool_]]:
    """The mask of version 0, of the initial `weights`."""
    due = without_due_units(weights, full_mask(task.table), task, network, 0, 0)
    return mask_of_version(task, 0, weights, due)


def asked_votes(task: Task, version: int, mask: Mask) -> dict[str, int]:
    """The number of pruned weights of each tensor that agents may name in the round that trains a version, of which
    `mask` is: those of the next version's that may come back. Empty where none can."""
    regrowth = task.pruning.regrowth
    fraction = 0.0 if regrowth is None else regrowth.fraction_at(version + 1)
    return most_votes(mask, fraction) if fraction else {}


def regrown_mask(
    task: Task, version: int, weights: Weights, mask: Mask, previous: Mask, votes: Mapping[str, NDArray[np.int64]]
) -> dict[str, NDArray[np.bool_]]:
    """The `mask` of a version once weights have come back in it, by the `votes` of agents that trained with the mask
    `previous`; see `fedprune.pruning.regrowth`."""
    regrowth = task.pruning.regrowth
    return dict(mask) if regrowth is None else regrow(weights, mask, previous, votes, regrowth.fraction_at(version))


def _is_thresholded(task: Task, version: int) -> bool:
    """True if weights below the task's threshold go with a version: an update of the mask was due in its round."""
    steps = task.training.clock_steps_per_round
    return task.pruning.threshold > 0.0 and task.pruning.schedule.is_due_within((version - 1) * steps, version * steps)


def is_scored_by_updates(task: Task, version: int) -> bool:
    """True if the mask of a version is updated, and chosen by what the agents of the round before it sent."""
    steps, pruning = task.training.clock_steps_per_round, task.pruning
    is_due = pruning.schedule.is_due_within((version - 1) * steps, version * steps)
    return pruning.is_scored_by_gateway and is_due
