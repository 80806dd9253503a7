"""Presets: what goes together to take few bytes, made for a task's model: chains for updates and for models, and how
far the gateway goes by what they bring."""

from __future__ import annotations

from enum import StrEnum

from aggregator.server_optimizers import FedAvgM
from fedprune.codecs.budget import budget_of

_UP, _DOWN = 0.005, 0.01
"""Shares of a dense model's weights that an update and a delta move, by sign and one magnitude."""

_STEP = 2.0
"""Times the mean of the updates."""

_CAP = 100
"""Of what an agent owes, in norms of a round's update. So few weights are sent that it grows to some tens."""


class Preset(StrEnum):
    """The presets by name. Both send sparse ternary updates and deltas of a size that stays the same while the model is
    pruned."""

    FRUGAL = "frugal"
    """For as many rounds as dense federated averaging takes: the gateway takes twice the mean of the updates."""
    EXACT = "exact"
    """For up to twice as many rounds, and more accuracy: the gateway takes the mean as it is."""


def chains(weights: int) -> tuple[str, str]:
    """The chains for updates, and for models, of so many prunable and dense weights.

    Example:
        >>> chains(100_000)[1]
        'mask | budget(1135) | ternary | history'
    """
    up, down = budget_of(weights, _UP), budget_of(weights, _DOWN)
    return (
        f"mask | feedback({_CAP}) | budget({up}) | ternary | history",
        f"mask | budget({down}) | ternary | history",
    )


def server_step(preset: Preset) -> FedAvgM | None:
    """The gateway's optimizer; None where the mean of the updates is added as it is.

    With error feedback on both sides a step beyond the mean is not lost: what goes too far comes back later.
    """
    return FedAvgM(learning_rate=_STEP, momentum=0.0) if preset is Preset.FRUGAL else None
