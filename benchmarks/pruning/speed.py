"""The speed of networks without half of their units, against the whole ones: inference, and training graphs.

The two take turns, so that what slows one for a while slows the other too.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.latency.measure import Settings, measure
from benchmarks.latency.results import Measured
from benchmarks.pruning.halves import Described, halves
from benchmarks.pruning.results import Speedup
from export.converter import ConverterProcess, Job
from export.report import Format
from fedprune.errors import ExportError
from fedprune.graph.training import write_training_graph
from fedprune.model.losses import Loss, Objective
from fedprune.model.randomness import Keyed
from fedprune.runtime.training_graph import TrainingGraph

FORMATS = (Format.FP32, Format.INT8)
_BATCH, _OUTPUTS = 32, 10
_CALIBRATION = 32
"""Random examples that int8's scales come from; speed does not depend on them."""


def speedups(name: str, runs: int, steps: int) -> list[Speedup]:
    """All of them of a network: of `runs` inferences in each format, and of `steps` steps."""
    pair = halves(name)
    parameters = (pair[0].table.parameters, pair[1].table.parameters)
    files = [_converted(each) for each in pair]
    found = [_inference(name, form, (files[0][form], files[1][form]), runs, parameters) for form in FORMATS]
    return [*found, _training(name, pair, steps, parameters)]


def _converted(model: Described) -> dict[Format, bytes]:
    drawn = Keyed(0, "calibration").uniform(_CALIBRATION * _size(model), 0.0, 1.0)
    calibration = drawn.reshape(_CALIBRATION, *model.network.inputs[0])
    job = Job(model.network, tuple(model.table), model.weights, [calibration[:1]], [calibration])
    with ConverterProcess(job) as converter:
        return {form: converter.convert(form) for form in FORMATS}


def _inference(
    name: str, form: Format, contents: tuple[bytes, bytes], runs: int, parameters: tuple[int, int]
) -> Speedup:
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / f"{part}.tflite" for part in ("whole", "half")]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        whole, half = measure(paths, Settings(num_runs=runs)).models
    if not isinstance(whole, Measured) or not isinstance(half, Measured) or half.ratio is None:
        raise ExportError(f"{name}, {form}: could not be measured: {whole} {half}")
    return Speedup(
        network=name,
        measured=form,
        whole_ms=whole.latency_ms.p50,
        half_ms=half.latency_ms.p50,
        median=1 / half.ratio.median,
        low=1 / half.ratio.high,
        high=1 / half.ratio.low,
        parameters=parameters,
        bytes=(len(contents[0]), len(contents[1])),
    )


def _training(name: str, pair: tuple[Described, Described], steps: int, parameters: tuple[int, int]) -> Speedup:
    return Speedup(name, "training graph", *in_turns(training_step(pair[0]), training_step(pair[1]), steps), parameters)


def in_turns(
    whole: Callable[[], object], less: Callable[[], object], steps: int
) -> tuple[float, float, float, float, float]:
    """The median milliseconds of processor time of each, then the median of their ratios and the quartiles around it,
    of so many pairs."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(steps + 1):
        for run, own in zip((whole, less), times, strict=True):
            began = time.process_time()
            run()
            own.append((time.process_time() - began) * 1e3)
    first, second = (own[1:] for own in times)  # the first is to warm up
    low, median, high = np.percentile(np.divide(first, second), (25, 50, 75)).tolist()
    return statistics.median(first), statistics.median(second), median, low, high


def training_step(model: Described) -> Callable[[], object]:
    """Computes loss and gradients of a batch of 32 on one thread."""
    graph = _training_graph(model)
    x = Keyed(0, "batch").uniform(_BATCH * _size(model), 0.0, 1.0).reshape(_BATCH, *model.network.inputs[0])
    y = np.eye(_OUTPUTS, dtype=np.float32)[np.arange(_BATCH) % _OUTPUTS]
    return lambda: graph.step([x], [y])


def _training_graph(model: Described) -> TrainingGraph:
    objective = Objective(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, from_logits=True)
    graph = write_training_graph(model.network, model.table, [objective], _BATCH)
    loaded = TrainingGraph(graph.blob, tuple(model.table), threads=1)
    loaded.hold(model.weights)
    return loaded


def _size(model: Described) -> int:
    return int(np.prod(model.network.inputs[0]))
