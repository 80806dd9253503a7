"""The recipes that are compared: which pruning, over which part of the rounds, on which task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.federation import DENSE_CODEC
from export.settings import ConstantSettings, PolynomialSettings, PruningSettings, UnitSettings

INT8 = "mask | int8"
_GROWTH = (1 / 3, 0.8)
"""The part of the rounds over which sparsity grows, of weights and of units; the rest fine-tunes the pruned model."""
Schedules = Callable[[int], PruningSettings]
"""From the number of rounds to the pruning of a task."""


@dataclass(frozen=True)
class Recipe:
    """A federation. It takes `stretch` times the rounds of its task, whose network is trained, or its other one.
    `dense` is the recipe that it is compared with: it is dense, and takes as long."""

    pruning: Schedules
    dense: str = "dense"
    units: float = 0.0
    codec: str = INT8
    stretch: int = 1
    other_network: bool = False


def window_of(rounds: int) -> tuple[int, int]:
    """The rounds before the first and before the last update of the mask."""
    begin, end = (round(rounds * part) for part in _GROWTH)
    return begin, end


def gradual(target: float, rounds: int) -> PolynomialSettings:
    """The usual schedule."""
    begin, end = window_of(rounds)
    return PolynomialSettings(initial_sparsity=0.0, target_sparsity=target, begin_round=begin, end_round=end)


def _pruned(sparsity: float, units: float = 0.0) -> Schedules:
    """LAMP over `sparsity` of all weights, those of `units`, which go too, among them."""

    def settings(rounds: int) -> PruningSettings:
        going = UnitSettings(gradual(units, rounds), multiple=4) if units else None
        return PruningSettings(gradual(sparsity, rounds), units=going)

    return settings


def dense(rounds: int) -> PruningSettings:
    return PruningSettings(ConstantSettings(target_sparsity=0.0, begin_round=rounds))


RECIPES = {
    "dense": Recipe(dense, codec=DENSE_CODEC),
    "90 %": Recipe(_pruned(0.9)),
    "95 %": Recipe(_pruned(0.95)),
    "half": Recipe(_pruned(0.0, 0.5), units=0.5),
    "half + 80 %": Recipe(_pruned(0.95, 0.5), units=0.5),
    "half from scratch": Recipe(dense, other_network=True),
    "98 %": Recipe(_pruned(0.98)),
    "dense, 120 rounds": Recipe(dense, dense="dense, 120 rounds", codec=DENSE_CODEC, stretch=2),
    "90 %, 120 rounds": Recipe(_pruned(0.9), dense="dense, 120 rounds", stretch=2),
}
"""Half of CNN-108k's units leaves a quarter of its weights, and 80 % of these make it 95 %."""

CORE = ("dense", "90 %", "95 %", "half", "half + 80 %", "half from scratch")
"""Those that a seed is compared by."""

LONG = ("98 %", "dense, 120 rounds", "90 %, 120 rounds")
"""Those that are run when all else was."""

SMALL_RECIPES = ("dense", "half", "half + 80 %")
"""Those that are compared on the other tasks too."""
