"""What a batch's outputs are to become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedprune.data import Dataset
from fedprune.model.forms import OutputForm
from fedprune.model.losses import LabelForm, Loss
from fedprune.model.tensors import Array


def targets_of(batch: Dataset, outputs: Sequence[OutputForm], spread: Mapping[int, Array]) -> list[Array]:
    """For each output its targets, float32 `[examples, *places, outputs]`, that a loss is still to smooth. `spread` is
    as `Work` has it."""
    targets = []
    for number, form in enumerate(outputs):
        rows = form.objective.targets(batch.labels[form.array], form.shape[-1])
        if form.objective.label_smoothing and number in spread:
            rows = rows + form.objective.shift_of(spread[number])
        targets.append(rows)
    return targets


def in_rows(form: OutputForm) -> OutputForm:
    """The form of the same output with its targets for labels, which is another where it has class numbers."""
    if form.objective.loss.rule.labels is not LabelForm.CLASS_NUMBERS:
        return form
    return replace(form, objective=replace(form.objective, loss=Loss.CATEGORICAL_CROSSENTROPY))
