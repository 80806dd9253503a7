"""Presets: chains for updates and models that go together, made for a task's model."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from fedprune.codecs.budget import budget_of
from fedprune.model.tensors import TensorClass, TensorTable

_UP, _DOWN = 0.005, 0.01
"""Shares of a dense model's weights that an update and a delta move, by sign and one magnitude."""

_CAP = 100
"""Of what an agent owes, in norms of a round's update. So few weights are sent that it grows to some tens."""


class Preset(StrEnum):
    """The presets by name."""

    FRUGAL = "frugal"
    """Sparse ternary updates and deltas of a size that stays the same while the model is pruned."""


def chains(preset: Preset, table: TensorTable) -> tuple[str, str]:
    """The chains of a preset for updates, and for the model.

    Example:
        >>> from fedprune.model.tensors import TensorSpec
        >>> table = TensorTable((TensorSpec("kernel", (100_000,), "float32", TensorClass.PRUNABLE, "dense"),))
        >>> chains(Preset.FRUGAL, table)[1]
        'mask | budget(1135) | ternary | context'
    """
    return _CHAINS[preset](sum(spec.size for spec in table.of(TensorClass.PRUNABLE, TensorClass.DENSE)))


def _frugal(weights: int) -> tuple[str, str]:
    up, down = budget_of(weights, _UP), budget_of(weights, _DOWN)
    return (
        f"mask | feedback({_CAP}) | budget({up}) | ternary | context",
        f"mask | budget({down}) | ternary | context",
    )


_CHAINS: dict[Preset, Callable[[int], tuple[str, str]]] = {Preset.FRUGAL: _frugal}
