"""Running a converted model on held-out examples, beside what Keras answered to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.report import RunsOn
from fedprune.errors import ExportError
from fedprune.tensors import Array
from fedprune.tflite import Runtime, available_runtimes, predict


@dataclass(frozen=True)
class Verdict:
    """See `Exported`. `accuracy` and `max_difference` are None where no runtime runs the model."""

    accuracy: float | None
    max_difference: float | None
    runs_on: tuple[RunsOn, ...]


def verify(content: bytes, x: Array, labels: NDArray[np.int64], expected: Array) -> Verdict:
    """Try the model on every runtime, and compare the first that runs it with `expected`, Keras' answers to `x`."""
    tried = {runtime: _try(runtime, content, x[:1]) for runtime in available_runtimes()}
    runs_on = tuple(tried.values())
    working = next((runtime for runtime, attempt in tried.items() if attempt.ok), None)
    if working is None:
        return Verdict(None, None, runs_on)
    answers = predict(working.interpreter(content), x)
    return Verdict(accuracy(answers, labels), float(np.abs(answers - expected).max()), runs_on)


def accuracy(answers: Array, labels: NDArray[np.int64]) -> float:
    """The fraction of `answers` `[examples, classes]` whose largest value is at the label."""
    return float(np.mean(answers.argmax(axis=1) == labels))


def _try(runtime: Runtime, content: bytes, x: Array) -> RunsOn:
    try:
        predict(runtime.interpreter(content), x)
    except ExportError as error:
        return RunsOn(runtime.name, runtime.version, ok=False, error=str(error))
    return RunsOn(runtime.name, runtime.version, ok=True, error="")
