"""Judging a converted model by its answers to held-out examples, beside what Keras answered to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.converter import Trial
from export.report import RunsOn
from fedprune.data import Dataset
from fedprune.model.losses import Objective
from fedprune.model.metrics import Metric
from fedprune.model.tensors import Array
from fedprune.task.evaluation import Evaluation, score


@dataclass(frozen=True)
class Verdict:
    """See `Exported`. `evaluation` and `max_difference` are None where no runtime runs the model."""

    evaluation: Evaluation | None
    max_difference: float | None
    runs_on: tuple[RunsOn, ...]


def judge(trial: Trial, data: Dataset, objective: Objective, metrics: Sequence[Metric], expected: Array) -> Verdict:
    """Compare the answers of a file with `expected`, Keras' answers to `data`."""
    if trial.answers is None:
        return Verdict(None, None, trial.runs_on)
    difference = float(np.abs(trial.answers - expected).max())
    found = score([trial.answers], data, objective, metrics).evaluation
    return Verdict(found, difference, trial.runs_on)
