"""The versions of a task's model: version v is the model that round v trains."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Mask, Weights
from fedprune.pruning.masks import score_mask
from fedprune.task.bundle import Task


def mask_of_version(task: Task, version: int, weights: Weights, previous: Mask) -> dict[str, NDArray[np.bool_]]:
    """The mask of a version, by the schedule's global clock: all sides compute the same bits from the same weights.

    Args:
        task: gives the tensor table, the schedule and the allocation.
        version: how many rounds of steps are made by then.
        weights: those that are scored, by tensor name.
        previous: where weights may still be kept.

    Returns:
        For each prunable tensor a bool array of its shape, True where a weight is kept.
    """
    sparsity = task.pruning.schedule.sparsity_in_force(version * task.training.clock_steps_per_round)
    return score_mask(weights, task.table, sparsity, task.pruning.allocation, previous)
