"""How the federations that are compared learn: codecs, the schedule of sparsity, the gateway's step, the rounds."""

from __future__ import annotations

from dataclasses import dataclass

from aggregator.presets import Preset
from aggregator.server_optimizers import FedAvgM
from aggregator.settings import AS_USUAL, Aggregation, Codec, FederationSettings
from benchmarks.federation import DENSE_CODEC, codec_of
from fedprune.codecs.budget import budget_of

_DENSE = codec_of(DENSE_CODEC)
_FRUGAL, _EXACT = Codec(preset=Preset.FRUGAL), Codec(preset=Preset.EXACT)

_WEIGHTS = 108_618
"""CNN-108k's."""

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
    """How a federation learns. `rounds` is how many times as many it has as dense federations.

    From the part `decay_from` of the rounds on, the learning rate falls along a cosine to a tenth; None is never.
    `logit_adjustment` and `label_smoothing` are the task's settings of these names.
    """

    name: str
    codec: Codec
    pruning: Pruning | None = None
    decay_from: float | None = None
    rounds: float = 1.0
    aggregation: Aggregation = AS_USUAL
    logit_adjustment: float = 0.0
    label_smoothing: float = 0.0

    @property
    def settings(self) -> FederationSettings:
        """As a federation.toml would have them."""
        return FederationSettings("task", "state", "held-out", codec=self.codec, aggregation=self.aggregation)

    def rounds_of(self, dense: int) -> int:
        """The rounds that it has where dense federations have so many."""
        return round(self.rounds * dense)


def _frugal(
    name: str,
    final: float,
    codec: Codec = _FRUGAL,
    *,
    decay_from: float = _DECAY_FROM,
    rounds: float = 1.0,
    aggregation: Aggregation = AS_USUAL,
    logit_adjustment: float = 1.0,
    label_smoothing: float = 0.1,
) -> Recipe:
    return Recipe(name, codec, Pruning(final), decay_from, rounds, aggregation, logit_adjustment, label_smoothing)


def _plain(
    name: str,
    codec: Codec = _FRUGAL,
    *,
    decay_from: float = _DECAY_FROM,
    rounds: float = 1.0,
    aggregation: Aggregation = AS_USUAL,
) -> Recipe:
    """`frugal-90` with neither logits adjusted nor labels smoothed."""
    return Recipe(name, codec, Pruning(0.9), decay_from, rounds, aggregation)


def _exact(name: str, final: float, *, logit_adjustment: float = 0.0, label_smoothing: float = 0.1) -> Recipe:
    pruning = Pruning(final, every=4)
    return Recipe(
        name, _EXACT, pruning, _DECAY_FROM, 2.0, logit_adjustment=logit_adjustment, label_smoothing=label_smoothing
    )


def _chain(name: str, update: str) -> Recipe:
    """Other updates than `frugal`'s, of which the gateway takes the mean as it is."""
    codec = Codec(preset=Preset.FRUGAL, update=update)
    return _frugal(name, 0.9, codec, aggregation=_step(1.0, 0.0), label_smoothing=0.0)


def _four_percent(name: str) -> Recipe:
    """Updates and deltas of four percent of the weights, the mean as it is, pruned late: what `frugal` began as."""
    most = budget_of(_WEIGHTS, 0.04)
    update = f"mask | feedback(100) | budget({most}) | ternary | history"
    codec = Codec(preset=Preset.EXACT, update=update, model=f"mask | budget({most}) | ternary | history")
    pruning = Pruning(0.9, initial=0.0, begin=1 / 3, power=3.0, every=2)
    return Recipe(name, codec, pruning, _DECAY_FROM)


def _moving(up: float, down: float) -> Codec:
    """`frugal`'s chains that move other shares of CNN-108k's weights."""
    most_up, most_down = budget_of(_WEIGHTS, up), budget_of(_WEIGHTS, down)
    update = f"mask | feedback(100) | budget({most_up}) | ternary | history"
    return Codec(preset=Preset.FRUGAL, update=update, model=f"mask | budget({most_down}) | ternary | history")


def _step(learning_rate: float, momentum: float) -> Aggregation:
    return Aggregation(optimizer=FedAvgM(learning_rate=learning_rate, momentum=momentum))


DENSE = Recipe("dense", _DENSE)
"""What the others are compared with."""

DENSE_DECAYED = Recipe("dense, decayed", _DENSE, decay_from=0.8)

RECIPES = (
    DENSE,
    DENSE_DECAYED,
    Recipe("dense, decayed, adjusted", _DENSE, decay_from=0.8, logit_adjustment=1.0),
    Recipe("dense, decayed, smoothed", _DENSE, decay_from=0.8, label_smoothing=0.1),
    _frugal("frugal-90", 0.9),
    _exact("exact-90", 0.9),
    _frugal("frugal-90, adjusted", 0.9, label_smoothing=0.0),
    _frugal("frugal-90, smoothed", 0.9, logit_adjustment=0.0),
    _exact("exact-90, adjusted and smoothed", 0.9, logit_adjustment=1.0),
    _exact("exact-90, adjusted", 0.9, logit_adjustment=1.0, label_smoothing=0.0),
    _exact("exact-90, plain", 0.9, label_smoothing=0.0),
    _plain("frugal-90, plain"),
    _plain("frugal-90, plain, early decay", decay_from=0.5),
    _plain("frugal-90, plain, more rounds", _moving(up=0.004, down=0.008), rounds=4 / 3),
    _plain("frugal-90, plain, alike both ways", _moving(up=0.0075, down=0.0075)),
    _plain("frugal-90, plain, momentum", aggregation=_step(1.2, 0.5)),
    _four_percent("four percent, 90 %"),
    _frugal("frugal-80", 0.8),
    _exact("exact-80", 0.8),
    _frugal("frugal-95", 0.95),
    _exact("exact-98", 0.98),
    _chain("low rank", "mask | feedback(2) | low_rank(8) | quantise(4)"),
    _chain("rotation", "mask | rotate | quantise(2)"),
    _chain("subsampling", "mask | subsample(0.1) | quantise(8)"),
)

BY_FLOWER = {"Flower": DENSE, "Flower, decayed": DENSE_DECAYED}
"""What Flower's simulation learns too, by the name of its run."""

USUAL = tuple(recipe.name for recipe in RECIPES[:6])
"""The recipes that are run unless others are named."""
