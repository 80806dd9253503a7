"""How the federations that are compared learn: codecs, the schedule of sparsity, the loss, the gateway's step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aggregator.presets import Preset
from aggregator.server_optimizers import FedAvgM
from aggregator.settings import AS_USUAL, Aggregation, Codec, FederationSettings
from benchmarks.federation import DENSE_CODEC, codec_of
from fedprune.codecs.budget import budget_of

_DENSE = codec_of(DENSE_CODEC)

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


def _updates(chain: str) -> Codec:
    return Codec(preset=Preset.FRUGAL, update=chain)


DENSE = Recipe("dense", _DENSE)
"""What the others are compared with."""

DENSE_DECAYED = replace(DENSE, name="dense, decayed", decay_from=0.8)

_FRUGAL = Recipe(
    "frugal-90",
    Codec(preset=Preset.FRUGAL),
    Pruning(0.9),
    _DECAY_FROM,
    logit_adjustment=1.0,
    label_smoothing=0.1,
)
_ADJUSTED = replace(_FRUGAL, name="frugal-90, adjusted", label_smoothing=0.0)
_PLAIN = replace(_ADJUSTED, name="frugal-90, plain", logit_adjustment=0.0)

_MEAN = replace(_ADJUSTED, aggregation=_step(learning_rate=1.0, momentum=0.0))
"""The gateway takes the mean of the updates as it is."""

_EXACT = Recipe(
    "exact-90",
    Codec(preset=Preset.EXACT),
    Pruning(0.9, every=4),
    _DECAY_FROM,
    rounds=2.0,
    label_smoothing=0.1,
)

RECIPES = (
    DENSE,
    DENSE_DECAYED,
    replace(DENSE_DECAYED, name="dense, decayed, adjusted", logit_adjustment=1.0),
    replace(DENSE_DECAYED, name="dense, decayed, smoothed", label_smoothing=0.1),
    _FRUGAL,
    _EXACT,
    _ADJUSTED,
    replace(_FRUGAL, name="frugal-90, smoothed", logit_adjustment=0.0),
    replace(_EXACT, name="exact-90, adjusted and smoothed", logit_adjustment=1.0),
    replace(_EXACT, name="exact-90, adjusted", logit_adjustment=1.0, label_smoothing=0.0),
    replace(_EXACT, name="exact-90, plain", label_smoothing=0.0),
    _PLAIN,
    replace(_PLAIN, name="frugal-90, plain, early decay", decay_from=0.5),
    replace(_PLAIN, name="frugal-90, plain, more rounds", codec=_moving(up=0.004, down=0.008), rounds=4 / 3),
    replace(_PLAIN, name="frugal-90, plain, alike both ways", codec=_moving(up=0.0075, down=0.0075)),
    replace(_PLAIN, name="frugal-90, plain, momentum", aggregation=_step(learning_rate=1.2, momentum=0.5)),
    _four_percent("four percent, 90 %"),
    replace(_FRUGAL, name="frugal-80", pruning=Pruning(0.8)),
    replace(_EXACT, name="exact-80", pruning=Pruning(0.8, every=4)),
    replace(_FRUGAL, name="frugal-95", pruning=Pruning(0.95)),
    replace(_ADJUSTED, name="frugal-80, adjusted", pruning=Pruning(0.8)),
    replace(_PLAIN, name="frugal-80, plain", pruning=Pruning(0.8)),
    replace(_ADJUSTED, name="frugal-95, adjusted", pruning=Pruning(0.95)),
    replace(_EXACT, name="exact-80, plain", pruning=Pruning(0.8, every=4), label_smoothing=0.0),
    replace(_EXACT, name="exact-98, plain", pruning=Pruning(0.98, every=4), label_smoothing=0.0),
    replace(_EXACT, name="exact-98", pruning=Pruning(0.98, every=4)),
    replace(_MEAN, name="low rank", codec=_updates("mask | feedback(2) | low_rank(8) | quantise(4)")),
    replace(_MEAN, name="rotation", codec=_updates("mask | rotate | quantise(2)")),
    replace(_MEAN, name="subsampling", codec=_updates("mask | subsample(0.1) | quantise(8)")),
)

BY_FLOWER = {"Flower": DENSE, "Flower, decayed": DENSE_DECAYED}
"""What Flower's simulation learns too, by the name of its run."""

USUAL = tuple(recipe.name for recipe in RECIPES[:6])
"""The recipes that are run unless others are named."""
