"""Structured pruning of a federation: when units go, and which. It is done by the mask of prunable weights.

Nothing reads a unit that has gone out of the mask, so that it can leave the network too: at some of the versions at
which units go, or when the model is exported.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Mask, TensorTable, Weights
from fedprune.network.description import Network
from fedprune.pruning.schedules import Schedule
from fedprune.slimming.groups import dependency_groups
from fedprune.slimming.selection import UnitAllocation, choose_units
from fedprune.slimming.unit_masks import maskable, prunable_unit_mask, units_without

MOST_STAGES = 4
"""The network of a run becomes smaller so many times at most: each time devices write and compare a training graph."""

_MOST_CHANNELS = 2**16


class UnitPruning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Structured pruning: the fraction of the units that go (`schedule`), and how it is spread over the layers.

    Of each layer's channels a number stays that is a multiple of `multiple`, and `minimum` at least. With `slim` the
    federation's network becomes smaller as they go; else it keeps its shape until it is exported.
    """

    schedule: Schedule
    allocation: UnitAllocation = UnitAllocation.UNIFORM
    minimum: Annotated[int, msgspec.Meta(ge=1, le=_MOST_CHANNELS)] = 1
    multiple: Annotated[int, msgspec.Meta(ge=1, le=_MOST_CHANNELS)] = 1
    slim: bool = True

    def stage(self, step: int) -> int:
        """The `MOST_STAGES`-ths of the target that have gone by a global step, rounded down. Units leave the network
        when the number grows: seldom, and when the target is reached.

        Example:
            >>> from fedprune.pruning.schedules import PolynomialDecay
            >>> schedule = PolynomialDecay(
            ...     begin_step=0, end_step=8, frequency=1, initial_sparsity=0.0, target_sparsity=0.5
            ... )
            >>> [UnitPruning(schedule).stage(step) for step in range(9)]
            [0, 1, 2, 3, 3, 3, 3, 3, 4]
        """
        end = self.schedule.end_step
        target = self.schedule.sparsity_in_force(step if end < 0 else end)
        return int(MOST_STAGES * self.schedule.sparsity_in_force(step) / target) if self.slim and target else 0


def mask_without_units(
    units: UnitPruning, network: Network, table: TensorTable, weights: Weights, mask: Mask, steps: tuple[int, int]
) -> dict[str, NDArray[np.bool_]]:
    """Mask the units that are due to go between two versions of a model.

    The choice follows from the weights alone, bit for bit: whoever has them finds the same mask. A unit that is gone
    stays so.

    Args:
        units: the task's.
        network: the task's, with its `table`.
        weights: float32, by tensor name: those of the version before.
        mask: of all prunable tensors: that of the version before.
        steps: the global steps that were made before that version, and before this one; equal ones for the first.

    Returns:
        `mask`, less the weights that make or take a unit that goes.
    """
    before, now = (units.schedule.sparsity_in_force(step) for step in steps)
    if not now or (now == before and steps[0] != steps[1]):
        return dict(mask)
    groups = dependency_groups(network, table)
    kept = choose_units(
        groups,
        weights,
        now,
        units.allocation,
        minimum=units.minimum,
        multiple=units.multiple,
        removed=units_without(groups, mask),
        choosable=maskable(groups),
    )
    gone = prunable_unit_mask(groups, kept)
    return {name: places & gone[name] if name in gone else places for name, places in mask.items()}
