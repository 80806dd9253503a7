"""Judging a converted model by its answers to held-out examples, beside what Keras answered to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.converter import Trial
from export.report import RunsOn
from fedprune.data import Dataset
from fedprune.model.forms import OutputForm
from fedprune.model.tensors import Array
from fedprune.task.evaluation import Evaluation, score
from fedprune.task.padding import Counted

_SMALLEST = np.finfo(np.float32).tiny
"""No answers are taken for smaller than this."""


@dataclass(frozen=True)
class Verdict:
    """See `Exported`. `relative_difference` is the largest relative to the largest number of its output. All three are
    None where no runtime runs the model."""

    evaluation: Evaluation | None
    max_difference: float | None
    relative_difference: float | None
    runs_on: tuple[RunsOn, ...]


def judge(
    trial: Trial,
    data: Dataset,
    outputs: Sequence[OutputForm],
    expected: Sequence[Array],
    counted: Sequence[Counted | None],
) -> Verdict:
    """Compare the answers of a file with `expected`, Keras' answers to `data`, both of each output. Evaluated are the
    places that are `counted`."""
    if trial.answers is None:
        return Verdict(None, None, None, trial.runs_on)
    pairs = list(zip(trial.answers, expected, strict=True))
    differences = [float(np.abs(answers - right).max()) for answers, right in pairs]
    sizes = [float(np.abs(right).max()) for _, right in pairs]
    # What is not a number is the largest of all to numpy.
    largest, relative = np.max(differences), np.max(np.divide(differences, np.maximum(sizes, _SMALLEST)))
    found = score([trial.answers], data, outputs, counted).evaluation
    return Verdict(found, float(largest), float(relative), trial.runs_on)
