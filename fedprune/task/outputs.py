"""The outputs of a task's model, and what is learned of each."""

from __future__ import annotations

from typing import Annotated

import msgspec

from fedprune.model.forms import OutputForm
from fedprune.model.losses import Loss
from fedprune.model.metrics import MOST_METRICS, Metric, why_unfit

MAX_CLASS_WEIGHTS = 2**16
"""Class weights of an output."""

Weight = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
Smoothing = Annotated[float, msgspec.Meta(ge=0, lt=1)]
LogitAdjustment = Annotated[float, msgspec.Meta(ge=0, le=10)]
Metrics = Annotated[tuple[Metric, ...], msgspec.Meta(max_length=MOST_METRICS)]
ClassWeights = Annotated[
    tuple[Annotated[float, msgspec.Meta(ge=0, le=1e6)], ...], msgspec.Meta(max_length=MAX_CLASS_WEIGHTS)
]


class OutputLoss(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The loss of an output: see `Objective`."""

    loss: Loss
    weight: Weight = 1.0
    label_smoothing: Smoothing = 0.0
    class_weights: ClassWeights = ()
    logit_adjustment: LogitAdjustment = 0.0

    def __post_init__(self) -> None:
        for name in ("label_smoothing", "logit_adjustment"):
            if getattr(self, name) and self.loss.rule.activation is None:
                raise ValueError(f"{name} is for crossentropies, not for {self.loss}")


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An output of a model: of `shape` `[*places, outputs]`, a row of numbers for each place, or a single one.

    `from_logits`: a crossentropy applies its softmax or sigmoid itself, since the model ends without. The name is empty
    where it is the only one. `metrics` judge the output beside its loss.
    """

    shape: tuple[int, ...]
    from_logits: bool
    name: str = ""
    metrics: Metrics = ()


def problem_of(form: OutputForm) -> str:
    """Say why an output cannot be learned with its objective; empty if it can."""
    *places, outputs = form.shape or (0,)
    objective, rule = form.objective, form.objective.loss.rule
    if outputs < rule.fewest_outputs:
        return f"{objective.loss} needs {rule.fewest_outputs} outputs at least"
    given, classes = len(objective.class_weights), 0 if places else rule.classes(outputs)
    if given and not classes:
        return f"class_weights need one class an example, and {objective.loss} of {[None, *form.shape]} has none"
    if given and given != classes:
        return f"class_weights has {given} numbers, the output {classes} classes"
    return why_unfit(form.metrics, objective.loss, outputs)
