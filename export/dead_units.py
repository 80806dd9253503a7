"""A model without the units that no output depends on: smaller tensors, and the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fedprune.errors import ExportError
from fedprune.model.tensors import Array, TensorTable, Weights
from fedprune.network.description import Network
from fedprune.slimming.groups import dependency_groups
from fedprune.slimming.slim import slim
from fedprune.slimming.unit_masks import dead_units, units_by_layer

_TOLERANCE = 1e-3
"""The most that answers may differ, relative to the largest: rounding is far below, a mistake far above."""


@dataclass(frozen=True, eq=False)
class LivingModel:
    """What is exported of a model. `removed` are the numbers of units that went, by the layer that made them."""

    network: Network
    table: TensorTable
    weights: Weights
    removed: dict[str, int] = field(default_factory=dict)


def without_dead_units(network: Network, table: TensorTable, weights: Weights) -> LivingModel:
    """The model as it is where nothing can go."""
    groups = dependency_groups(network, table)
    dead = dead_units(groups, weights)
    if not dead.any():
        return LivingModel(network, table, weights)
    slimmed = slim(groups, weights, ~dead)
    return LivingModel(slimmed.network, slimmed.table, slimmed.weights, units_by_layer(groups, dead))


def check_alike(whole: Sequence[Array], slimmed: Sequence[Array]) -> None:
    """Raise `ExportError` unless each output of the model without units is that of the whole one, rounding aside."""
    for expected, found in zip(whole, slimmed, strict=True):
        difference, largest = float(np.abs(found - expected).max()), float(np.abs(expected).max())
        if not difference <= _TOLERANCE * largest:
            raise ExportError(
                f"without its dead units the model answers differently: by up to {difference:.2g}, the largest answer "
                f"is {largest:.2g}. fedprune is at fault, please report it; nothing was written"
            )
