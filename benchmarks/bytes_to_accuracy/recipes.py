"""How the federations that are compared learn: codecs, the schedule of sparsity, the gateway's step, the rounds."""

from __future__ import annotations

from dataclasses import dataclass

from aggregator.presets import Preset
from aggregator.server_optimizers import FedAvgM
from aggregator.settings import AS_USUAL, Aggregation, Codec, FederationSettings
from benchmarks.federation import DENSE_CODEC, codec_of

_DENSE = codec_of(DENSE_CODEC)

_DECAY_FROM = 44 / 60
"""Earlier the learning rate is too low for what is still to be learned, later too little of what is noise goes."""


@dataclass(frozen=True)
class Pruning:
    """Sparsity that grows from `initial` to `final` over the part `begin` to `end` of the rounds, at each `every`th of
    them, by the polynomial of `power`."""

    final: float
    initial: float = 0.5
    begin: float = 1 / 60
    end: float = 0.8
    power: float = 2.2
    every: int = 1


@dataclass(frozen=True)
class Recipe:
    """How a federation learns. `rounds` is how many times as many as dense federations have.

    From the part `decay_from` of the rounds on, the learning rate falls along a cosine to a tenth; None is never.
    """

    name: str
    codec: Codec
    pruning: Pruning | None = None
    decay_from: float | None = None
    rounds: int = 1
    aggregation: Aggregation = AS_USUAL

    @property
    def settings(self) -> FederationSettings:
        """As a federation.toml would have them."""
        return FederationSettings("task", "state", "held-out", codec=self.codec, aggregation=self.aggregation)


def _frugal(name: str, final: float, decay_from: float = _DECAY_FROM) -> Recipe:
    return Recipe(name, Codec(preset=Preset.FRUGAL), Pruning(final), decay_from)


def _exact(name: str, final: float) -> Recipe:
    return Recipe(name, Codec(preset=Preset.EXACT), Pruning(final, every=4), _DECAY_FROM, rounds=2)


def _chain(name: str, update: str) -> Recipe:
    """`frugal` with other updates, of which the gateway takes the mean as it is."""
    as_it_is = Aggregation(optimizer=FedAvgM(learning_rate=1.0, momentum=0.0))
    codec = Codec(preset=Preset.FRUGAL, update=update)
    return Recipe(name, codec, Pruning(0.9), _DECAY_FROM, aggregation=as_it_is)


DENSE = Recipe("dense", _DENSE)
"""What the others are compared with."""

RECIPES = (
    DENSE,
    Recipe("dense, decayed", _DENSE, decay_from=0.8),
    _frugal("frugal-90", 0.9),
    _exact("exact-90", 0.9),
    _frugal("frugal-90, early decay", 0.9, decay_from=0.5),
    _frugal("frugal-80", 0.8),
    _frugal("frugal-95", 0.95),
    _exact("exact-98", 0.98),
    _chain("low rank", "mask | feedback(2) | low_rank(8) | quantise(4)"),
    _chain("rotation", "mask | rotate | quantise(2)"),
    _chain("subsampling", "mask | subsample(0.1) | quantise(8)"),
)

USUAL = tuple(recipe.name for recipe in RECIPES[:4])
"""The recipes that are run unless others are named."""
