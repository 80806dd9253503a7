"""task.toml: what a federation learns."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from fedprune.data.description import Arrays, Data
from fedprune.model.forms import MAX_ENDS
from fedprune.pruning.blocks import SINGLE, BlockSize
from fedprune.pruning.masks import Allocation
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.regrowth import Regrowth
from fedprune.pruning.schedules import (
    STEP_LIMIT,
    ConstantSparsity,
    CosineSparsity,
    IterativeSparsity,
    PolynomialDecay,
    Schedule,
)
from fedprune.pruning.scores import Score, ScoreWeights
from fedprune.slimming.pruning import UnitPruning
from fedprune.slimming.selection import UnitAllocation
from fedprune.task.bundle import Pruning, Threshold
from fedprune.task.outputs import Metrics
from fedprune.task.training import Training

_Size = Annotated[int, msgspec.Meta(ge=1, le=2**16)]

_MOST_EXCLUDED = 1000
"""Layers that pruning may leave out."""


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[model]`` table: a built-in model, or a ``.keras`` or ``.h5`` file that tf_keras saved.

    `input_shape` (without the batch) and `outputs` make a built-in model; a file's are only compared with them.
    Initial weights are drawn from `seed`, or are the file's own, which is a file's default. Layers that are frozen in
    the file (``trainable = False``) stay as they are, and dense, unless `frozen` is ``train``. Those named `local` stay
    on each device (see `export.local_layers`).
    """

    builtin: Literal["cnn-108k"] | None = None
    file: str | None = None
    input_shape: tuple[_Size, ...] | None = None
    outputs: _Size | None = None
    initial: Literal["seed", "file"] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    frozen: Literal["keep", "train"] = "keep"
    local: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.builtin is None) == (self.file is None):
            raise ValueError('give either builtin = "cnn-108k" or file = "model.keras"')
        if self.builtin is not None and self.initial == "file":
            raise ValueError('a built-in model has no weights of its own: initial = "seed"')

    @property
    def keeps_weights(self) -> bool:
        """True if the file's weights are the initial ones."""
        return self.file is not None and self.initial != "seed"


class _Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """When masks are updated: in global steps, as the task's schedule has it, or after which rounds, once in each.

    Raises ValueError unless all of the one kind of keys are given and none of the other.
    """

    begin_step: int | None = None
    end_step: int | None = None
    frequency: int | None = None
    begin_round: int | None = None
    end_round: int | None = None

    def __post_init__(self) -> None:
        try:
            self.in_steps(1)
        except ValueError as error:
            raise ValueError(str(error).replace("_step", "_round") if self.is_in_rounds else str(error)) from error

    def in_steps(self, steps_per_round: int) -> Schedule:
        """The schedule on the global clock."""
        raise NotImplementedError

    @property
    def is_in_rounds(self) -> bool:
        return (self.begin_round, self.end_round) != (None, None)

    def _window(self, steps_per_round: int, *, needs_end: bool) -> dict[str, int]:
        steps = {"begin_step": self.begin_step, "end_step": self.end_step, "frequency": self.frequency}
        if self.is_in_rounds and any(value is not None for value in steps.values()):
            raise ValueError("give begin_round and end_round, or steps and a frequency, not both")
        if self.is_in_rounds:
            rounds = {"begin_step": self.begin_round, "end_step": self.end_round}
            steps = {key: None if value is None else value * steps_per_round for key, value in rounds.items()}
            steps["frequency"] = steps_per_round
        window = {key: value for key, value in steps.items() if value is not None}
        if len(window) < 3 and (needs_end or window.keys() != {"begin_step", "frequency"}):
            raise ValueError("give begin_round and end_round, or begin_step, end_step and frequency")
        return window


class PolynomialSettings(_Window, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="polynomial"):
    """See `PolynomialDecay`."""

    initial_sparsity: float
    target_sparsity: float
    power: float = 3.0

    def in_steps(self, steps_per_round: int) -> Schedule:
        return PolynomialDecay(
            initial_sparsity=self.initial_sparsity,
            target_sparsity=self.target_sparsity,
            power=self.power,
            **self._window(steps_per_round, needs_end=True),
        )


class ConstantSettings(_Window, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="constant"):
    """See `ConstantSparsity`; it needs no end."""

    target_sparsity: float

    def in_steps(self, steps_per_round: int) -> Schedule:
        window = self._window(steps_per_round, needs_end=False)
        return ConstantSparsity(target_sparsity=self.target_sparsity, **window)


class CosineSettings(_Window, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="cosine"):
    """See `CosineSparsity`."""

    initial_sparsity: float
    target_sparsity: float

    def in_steps(self, steps_per_round: int) -> Schedule:
        return CosineSparsity(
            initial_sparsity=self.initial_sparsity,
            target_sparsity=self.target_sparsity,
            **self._window(steps_per_round, needs_end=True),
        )


class IterativeSettings(_Window, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="iterative"):
    """See `IterativeSparsity`; in rounds, masks are updated every `every_rounds` of them."""

    target_sparsity: float
    every_rounds: Annotated[int, msgspec.Meta(ge=1, lt=STEP_LIMIT)] | None = None

    def in_steps(self, steps_per_round: int) -> Schedule:
        if (self.every_rounds is not None) != self.is_in_rounds:
            raise ValueError("give every_rounds with begin_round and end_round, and with these alone")
        window = self._window(steps_per_round, needs_end=True)
        window["frequency"] *= self.every_rounds or 1
        return IterativeSparsity(target_sparsity=self.target_sparsity, **window)


class OneShotSettings(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="one-shot"
):
    """All at once: a `ConstantSparsity` of one update, after `begin_round` rounds, or at `begin_step`."""

    target_sparsity: float
    begin_step: int | None = None
    begin_round: int | None = None

    def __post_init__(self) -> None:
        self.in_steps(1)

    def in_steps(self, steps_per_round: int) -> Schedule:
        if (self.begin_step is None) == (self.begin_round is None):
            raise ValueError("give either begin_round or begin_step")
        step = (self.begin_step or 0) + (self.begin_round or 0) * steps_per_round
        return ConstantSparsity(target_sparsity=self.target_sparsity, begin_step=step, end_step=step, frequency=1)

    @property
    def is_in_rounds(self) -> bool:
        return self.begin_round is not None


ScheduleSettings = PolynomialSettings | ConstantSettings | CosineSettings | IterativeSettings | OneShotSettings


class UnitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[pruning.units]`` table: `UnitPruning`, with a schedule that may be given in rounds."""

    schedule: ScheduleSettings
    allocation: UnitAllocation = UnitAllocation.UNIFORM
    minimum: _Size = 1
    multiple: _Size = 1
    slim: bool = True

    def in_steps(self, steps_per_round: int) -> UnitPruning:
        """Raises ValueError if the clock would run over."""
        schedule = self.schedule.in_steps(steps_per_round)
        return UnitPruning(schedule, self.allocation, self.minimum, self.multiple, self.slim)


class PruningSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[pruning]`` table: `Pruning`, with a schedule that may be given in rounds. Kernels of the layers named
    `excluded` stay dense."""

    schedule: ScheduleSettings
    mask: MaskPolicy = MaskPolicy("shared")
    allocation: Allocation = Allocation.LAMP
    units: UnitSettings | None = None
    block: tuple[BlockSize, BlockSize] = SINGLE
    threshold: Threshold = 0.0
    score: Score | ScoreWeights = Score.MAGNITUDE
    regrowth: Regrowth | None = None
    excluded: Annotated[tuple[str, ...], msgspec.Meta(max_length=_MOST_EXCLUDED)] = ()

    def __post_init__(self) -> None:
        self.in_steps(1)

    def in_steps(self, steps_per_round: int) -> Pruning:
        """Raises ValueError if the mask policy knows no such allocation, or the clock would run over."""
        units = None if self.units is None else self.units.in_steps(steps_per_round)
        schedule = self.schedule.in_steps(steps_per_round)
        return Pruning(
            schedule, self.mask, self.allocation, units, self.block, self.threshold, self.score, self.regrowth
        )


class EvaluationSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[evaluation]`` table. `metrics` are a list for the only output, a table of lists for several outputs. Those
    of an output that has none here are the usual ones for its loss."""

    metrics: Metrics | Annotated[dict[str, Metrics], msgspec.Meta(max_length=MAX_ENDS)] = {}

    @property
    def by_output(self) -> dict[str, Metrics]:
        """The metrics by the names of outputs; that of the only one is empty."""
        return self.metrics if isinstance(self.metrics, dict) else {"": self.metrics}


class TaskSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. Paths are relative to it."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    model: ModelSettings
    training: Training
    pruning: PruningSettings
    data: Data = Arrays()
    evaluation: EvaluationSettings = EvaluationSettings()

    def __post_init__(self) -> None:
        if self.training.epochs_per_round and not self.pruning.schedule.is_in_rounds:
            raise ValueError(
                "pruning.schedule: give begin_round and end_round; with epochs_per_round devices make unequal "
                "numbers of steps"
            )
        if self.training.epochs_per_round and not self.pruning.mask.rules.is_shared:
            raise ValueError(
                f'mask = "{self.pruning.mask}" needs steps_per_round: TF-MOT prunes by a clock of steps, which all '
                "devices must make"
            )
        if self.pruning.regrowth is not None and self.training.powerpropagation > 1.0:
            raise ValueError(
                "pruning.regrowth brings weights back at 0, where training.powerpropagation holds them: leave one out"
            )
        self.pruning.in_steps(self.training.clock_steps_per_round)
