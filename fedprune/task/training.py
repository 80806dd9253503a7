"""Local training: what a device does with its examples in a round, as the task says it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from fedprune.model.forms import MAX_ENDS
from fedprune.model.losses import Loss, Objective
from fedprune.task.learning_rates import LearningRateDecay
from fedprune.task.outputs import ClassWeights, LogitAdjustment, Output, OutputLoss, Smoothing

MOST_LOCAL_STEPS = 100_000
"""Local steps of a round, at most: a device with so many examples makes a part of its epochs only."""

_Rate = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
_Momentum = Annotated[float, msgspec.Meta(ge=0, lt=1)]


class Sgd(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="sgd"):
    learning_rate: _Rate = 0.05
    momentum: _Momentum = 0.9
    nesterov: bool = False


class Adam(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="adam"):
    learning_rate: _Rate = 0.001
    beta_1: _Momentum = 0.9
    beta_2: _Momentum = 0.999
    epsilon: _Rate = 1e-7


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Local training: in each round every device makes `steps_per_round` steps, which the schedule's global clock then
    counts; or `epochs_per_round` epochs of its own examples, and the clock counts rounds. The other one of them is 0.

    `loss`, `label_smoothing`, `class_weights` and `logit_adjustment` are those of the only output, `losses` of each of
    several by its name.

    `proximal_mu` is FedProx's: each step minimises the loss + mu/2 ||w - w_t||^2, w_t being the round's global model
    (Li et al. 2020, "Federated optimization in heterogeneous networks", arXiv 1812.06127, equation 2). The sum is over
    weights that the mask keeps: w_t would pull those that an agent has just pruned back into its mask.

    `powerpropagation` is its alpha: kernels that may be pruned are trained as w = theta |theta|^(alpha - 1) (Schwarz et
    al. 2021, arXiv 2110.00296, equation 1), which keeps small weights small. With 1 w is theta.
    """

    steps_per_round: int = 0
    batch_size: int = 32
    optimizer: Sgd | Adam = Sgd()
    loss: Loss = Loss.SPARSE_CATEGORICAL_CROSSENTROPY
    proximal_mu: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    optimizer_state: Literal["reset", "keep"] = "reset"
    learning_rate_decay: LearningRateDecay | None = None
    label_smoothing: Smoothing = 0.0
    class_weights: ClassWeights = ()
    losses: Annotated[dict[str, OutputLoss], msgspec.Meta(max_length=MAX_ENDS)] = {}
    epochs_per_round: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    powerpropagation: Annotated[float, msgspec.Meta(ge=1, le=10)] = 1.0
    logit_adjustment: LogitAdjustment = 0.0

    def __post_init__(self) -> None:
        if self.steps_per_round < 0 or bool(self.steps_per_round) == bool(self.epochs_per_round):
            raise ValueError("give either steps_per_round or epochs_per_round, and at least 1 of them")
        if self.batch_size < 1:
            raise ValueError("batch_size must be at least 1")
        if self._only != OutputLoss(Loss.SPARSE_CATEGORICAL_CROSSENTROPY) and self.losses:
            raise ValueError(
                "give loss, label_smoothing, class_weights and logit_adjustment of each output in its own table of "
                "losses"
            )

    @property
    def clock_steps_per_round(self) -> int:
        """Steps of the schedule's global clock in a round."""
        return self.steps_per_round or 1

    def local_steps(self, examples: int, batch_size: int) -> int:
        """The steps of a device's round, with so many examples in batches of `batch_size`. In an epoch each example
        comes up once at least, unless that takes more than `MOST_LOCAL_STEPS`.

        Example:
            >>> Training(epochs_per_round=2).local_steps(examples=100, batch_size=32)
            7
        """
        return self.steps_per_round or min(-(-self.epochs_per_round * examples // batch_size), MOST_LOCAL_STEPS)

    def learning_rate_at(self, schedule_step: int) -> float:
        """The learning rate of the round that begins after `schedule_step` global steps."""
        decay = self.learning_rate_decay
        factor = 1.0 if decay is None else decay.factor_at(schedule_step // self.clock_steps_per_round)
        return self.optimizer.learning_rate * factor

    def objective_of(self, output: Output) -> Objective:
        """What is learned of an output. Raises KeyError if there is no loss for it."""
        own = self.losses[output.name] if output.name else self._only
        return Objective(
            own.loss, output.from_logits, own.weight, own.label_smoothing, own.class_weights, own.logit_adjustment
        )

    @property
    def _only(self) -> OutputLoss:
        return OutputLoss(
            self.loss,
            label_smoothing=self.label_smoothing,
            class_weights=self.class_weights,
            logit_adjustment=self.logit_adjustment,
        )
