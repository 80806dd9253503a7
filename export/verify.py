"""Running a converted model on held-out examples, beside what Keras answered to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.report import RunsOn
from fedprune.data import Dataset
from fedprune.errors import ExportError
from fedprune.model.losses import Objective
from fedprune.model.tensors import Array
from fedprune.runtime.tflite import Runtime, available_runtimes, predict
from fedprune.task.evaluation import Evaluation, score


@dataclass(frozen=True)
class Verdict:
    """See `Exported`. `evaluation` and `max_difference` are None where no runtime runs the model."""

    evaluation: Evaluation | None
    max_difference: float | None
    runs_on: tuple[RunsOn, ...]


def verify(content: bytes, data: Dataset, objective: Objective, expected: Array) -> Verdict:
    """Try the model on every runtime, and compare the first that runs it with `expected`, Keras' answers to `data`."""
    tried = {runtime: _try(runtime, content, data.x[:1]) for runtime in available_runtimes()}
    runs_on = tuple(tried.values())
    working = next((runtime for runtime, attempt in tried.items() if attempt.ok), None)
    if working is None:
        return Verdict(None, None, runs_on)
    answers = predict(working.interpreter(content), data.x)
    return Verdict(score(answers, data, objective), float(np.abs(answers - expected).max()), runs_on)


def _try(runtime: Runtime, content: bytes, x: Array) -> RunsOn:
    try:
        predict(runtime.interpreter(content), x)
    except ExportError as error:
        return RunsOn(runtime.name, runtime.version, ok=False, error=str(error))
    return RunsOn(runtime.name, runtime.version, ok=True, error="")
