"""The part of the zoo that takes TensorFlow: bundles and exactness. Importing this module imports TensorFlow."""

from __future__ import annotations

import logging
import math
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.zoo.networks import NETWORKS
from benchmarks.zoo.records import Exactness
from benchmarks.zoo.training import perturbed
from export.architecture import task_outputs
from export.build import build_task
from export.describing.model import describe
from export.proof.reference import Reference, Truth, norm_of
from export.settings import ConstantSettings, ModelSettings, PruningSettings, TaskSettings
from fedprune.graph.training import write_training_graph
from fedprune.keras.stack import keras
from fedprune.model.tensors import TensorTable
from fedprune.runtime.self_check import Case
from fedprune.runtime.training_graph import Step, TrainingGraph
from fedprune.task.bundle import Bundle, read_bundle
from fedprune.task.training import Sgd, Training

BATCH = 32
STEPS = 20
"""Of a round, as of parity."""
SPARSITY = 0.8

PROVEN_SIZES = (8, 16, 32, 64)
"""The batch sizes of all graphs of a bundle."""

_BATCH_SIZES = (1, *PROVEN_SIZES)
_SEEDS = 3
_MEANINGFUL = 3e-4
"""A tensor's answer is meaningful if rounding moves it by no more than this part of itself. It is more where either
program takes an activation across a kink (of ReLU or a maximum), which is luck."""
_PERTURBATIONS = 3
"""So many times weights are off by a rounding, to see how far that moves the answer."""
_ROUNDING = 2.0**-24
"""Errors are at least one rounding of the norm: what is nearer to the truth is so by luck."""


@dataclass(frozen=True)
class Built:
    """A bundle, the seconds that it took, those to write its graph for `BATCH`, and warnings of the build."""

    bundle: bytes
    build_seconds: float
    write_seconds: float
    warnings: tuple[str, ...]


def build_and_compare(name: str) -> tuple[Built, Exactness]:
    """Both, in one process."""
    return build(name), exactness(name)


def build(name: str, *, drops: bool = True) -> Built:
    """The network's bundle, made as `fedprune task build` makes it from a model file."""
    warnings = _Warnings()
    logger = logging.getLogger("export.build")
    logger.addHandler(warnings)
    try:
        with tempfile.TemporaryDirectory() as directory:
            _model(name, drops=drops).save(Path(directory) / "model.keras")
            began = time.perf_counter()
            blob = build_task(_settings(name), Path(directory))
            seconds = time.perf_counter() - began
    finally:
        logger.removeHandler(warnings)
    return Built(blob, seconds, _write_seconds(read_bundle(blob)), tuple(warnings.lines))


def build_without_dropout(name: str) -> bytes:
    """The bundle of the network whose dropout drops nothing."""
    return build(name, drops=False).bundle


def exactness(name: str) -> Exactness:
    """Gradients of the graph and of tf_keras in float32, each against float64, at all batch sizes.

    The error of a tensor is the median over several batches.
    """
    model = _model(name)
    network, tensors = describe(model)
    training = _training(name)
    objectives = [training.objective_of(output) for output in task_outputs(network, training)]
    reference = Reference(model, objectives)
    ratios, total, largest = list[float](), 0, 0.0
    for batch in _BATCH_SIZES:
        written = write_training_graph(network, TensorTable(tensors), objectives, batch)
        graph = TrainingGraph(written.blob, tensors, threads=1)
        answers, furthest = [], math.inf
        for seed in range(_SEEDS):
            case, truth = reference.run_drawn(graph, tensors, seed, batch, 1.0)
            found = case.run(graph)
            answers.append(_Answer(truth, found, reference.run_narrow(case), _moved(reference, case, truth)))
            furthest = min(furthest, truth.furthest(found, case.weights)[1])
        largest = max(largest, furthest)
        for tensor in answers[0].truth.step.gradients:
            total += 1
            ratios += _ratio(tensor, answers)
    low, high = np.percentile(ratios, (50, 95)) if ratios else (np.nan, np.nan)
    return Exactness(float(low), float(high), len(ratios), total, largest)


@dataclass(frozen=True)
class _Answer:
    """A batch: the truth, what the graph and tf_keras in float32 find, and how far rounding moves each gradient."""

    truth: Truth
    graph: Step
    keras: Step
    moved: dict[str, float]


def _moved(reference: Reference, case: Case, truth: Truth) -> dict[str, float]:
    moved = dict(truth.noise)
    for number in range(_PERTURBATIONS):
        step = reference.run_narrow(replace(case, weights=perturbed(case.weights, number)))
        for name, gradient in truth.step.gradients.items():
            moved[name] = max(moved[name], norm_of(step.gradients[name] - gradient))
    return moved


def _ratio(name: str, answers: list[_Answer]) -> list[float]:
    """The graph's error over tf_keras', as one number; none if the question has no meaning."""
    ours, theirs = list[float](), list[float]()
    for answer in answers:
        exact = answer.truth.step.gradients[name]
        norm = norm_of(exact)
        error = norm_of(answer.graph.gradients[name] - exact)
        if norm > 0.0 and max(error, answer.moved[name]) <= _MEANINGFUL * norm:
            ours.append(max(error / norm, _ROUNDING))
            theirs.append(max(norm_of(answer.keras.gradients[name] - exact) / norm, _ROUNDING))
    return [statistics.median(ours) / statistics.median(theirs)] if ours else []


def _model(name: str, *, drops: bool = True) -> Any:
    keras.backend.clear_session()  # layers' names count those made before
    keras.utils.set_random_seed(0)
    return NETWORKS[name].build(drops)


def _settings(name: str) -> TaskSettings:
    schedule = ConstantSettings(target_sparsity=SPARSITY, begin_step=0, frequency=STEPS)
    return TaskSettings(name, ModelSettings(file="model.keras"), _training(name), PruningSettings(schedule))


def _training(name: str) -> Training:
    entry = NETWORKS[name]
    return Training(STEPS, BATCH, Sgd(learning_rate=0.01, momentum=0.9), entry.loss, losses=dict(entry.losses))


def _write_seconds(bundle: Bundle) -> float:
    task = bundle.task
    began = time.perf_counter()
    write_training_graph(bundle.network, task.table, task.objectives, BATCH)
    return time.perf_counter() - began


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "cannot be trained" in record.getMessage():
            self.lines.append(record.getMessage())
