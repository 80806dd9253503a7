"""What a task's structured pruning cannot remove, and why. Needs no TensorFlow."""

from __future__ import annotations

from fedprune.errors import TaskError
from fedprune.model.tensors import TensorTable
from fedprune.network.description import Network
from fedprune.slimming.groups import KEPT, OUTPUT, dependency_groups
from fedprune.slimming.unit_masks import maskable

_SHOWN = 8
"""Layers that are named; of more there is the number."""
_UNPRUNED = "something else than a kernel that is pruned takes them"


def units_that_stay(network: Network, table: TensorTable) -> list[str]:
    """A line for each layer whose units stay, in whole or in part; that outputs do goes without saying.

    Raises `TaskError` if no unit can be removed.
    """
    groups = dependency_groups(network, table)
    can_go = maskable(groups)
    reasons = dict(groups.reasons)
    for made in groups.made:
        units = made.units[made.units != KEPT]
        if not can_go[units].all():
            reasons.setdefault(made.layer, _UNPRUNED)
    if not can_go.any():
        why = "; ".join(_lines(reasons))
        raise TaskError(
            f"network {network.name[:60]!r} has no units that can be removed ({why}); leave pruning.units out"
        )
    return _lines({layer: reason for layer, reason in reasons.items() if reason != OUTPUT})


def _lines(reasons: dict[str, str]) -> list[str]:
    lines = [f"{layer}: {reason}" for layer, reason in reasons.items()]
    more = len(lines) - _SHOWN
    return [*lines[:_SHOWN], *([f"{more} more"] if more > 0 else [])]
