"""The proof that a training graph learns what tf_keras learns, step by step along one trajectory, and with numbers that
are large or small.

At each step both start from equal weights. What is asked of the graph is to be as near to the truth, which is
tf_keras in float64, as 1e-5, or within four times what tf_keras itself is off in float32: deep networks with batch
normalisation lose far more than 1e-5. Where an activation lies within a rounding error of a kink (of ReLU or a
maximum), either may fall on the wrong side; so a step that fails is tried again with other examples. A mistake that
every batch meets fails every time; one on a branch that few batches take may pass.
Importing this module imports TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from export.proof.errors import NotProven
from export.proof.reference import Reference, norm_of
from fedprune.errors import FedpruneError
from fedprune.model.losses import LabelForm, Objective, one_hot
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, TensorSpec, Weights
from fedprune.runtime.self_check import Case, some_weights
from fedprune.runtime.tflite import available_runtimes
from fedprune.runtime.training_graph import Step, TrainingGraph

_RELATIVE, _ABSOLUTE = 1e-5, 1e-6
"""The largest error allowed: relative to its tensor; where that is smaller than this, and so zero but for rounding."""
_SLACK = 4.0
"""The graph may be so many times as far from the truth as tf_keras in float32."""
_TRIES = 8
_SCALES = (8.0, 1e-3)
"""Beside the trajectory's moderate numbers, large ones reach 6 in ReLU6, and small ones where functions cancel."""
_LEARNING_RATE = 0.01


class Proof:
    """Judges training graphs of one model."""

    def __init__(self, model: Any, tensors: Sequence[TensorSpec], objective: Objective) -> None:
        self._name = model.name
        self._tensors = tensors
        self._objective = objective
        self._single = Reference(model, "float32", objective)
        self._double = Reference(model, "float64", objective)

    def check(self, graph: bytes) -> None:
        """Compare on every runtime that is installed. Raises `NotProven` where results differ."""
        for runtime in available_runtimes():
            try:
                candidate = TrainingGraph(graph, self._tensors, threads=1, runtime=runtime)
                self._follow(candidate)
                self._rescale(candidate)
            except FedpruneError as error:
                raise NotProven(
                    f"model {self._name!r}: {runtime.name} {runtime.version}: {error}; train with the keras trainer"
                ) from error

    def _follow(self, candidate: TrainingGraph) -> None:
        """Train with tf_keras; at each step, see whether the graph agrees. Raises `_DiffersError`."""
        keyed = Keyed(0, "verify training graph")
        weights = {spec.name: some_weights(spec, keyed) for spec in self._tensors}
        full = candidate.batch_shape[0]
        for number, count in enumerate((full, 1, min(2, full), full // 2 + 1, full), start=1):
            expected = self._agree(candidate, weights, count, 1.0, keyed, f"at step {number}")
            for name, gradient in expected.gradients.items():
                weights[name] = weights[name] - np.float32(_LEARNING_RATE) * gradient
            weights |= expected.statistics

    def _rescale(self, candidate: TrainingGraph) -> None:
        """See whether the graph agrees where numbers are large or small. Raises `_DiffersError`."""
        for scale in _SCALES:
            keyed = Keyed(0, "verify training graph", f"{scale:g}")
            weights = {spec.name: some_weights(spec, keyed, scale) for spec in self._tensors}
            self._agree(candidate, weights, candidate.batch_shape[0], scale, keyed, f"with inputs up to {scale:g}")

    def _agree(
        self, candidate: TrainingGraph, weights: Weights, count: int, scale: float, keyed: Keyed, where: str
    ) -> Step:
        """One step with `count` examples; what tf_keras makes of it."""
        for _ in range(_TRIES):
            case = _draw(candidate, self._objective, weights, count, scale, keyed)
            expected = self._single.run(case)
            problem = _difference(case.run(candidate), expected, self._double.run(case), weights)
            if not problem:
                return expected
        raise _DiffersError(f"{where}, with {count} examples, the training graph differs from tf_keras: {problem}")


class _DiffersError(FedpruneError):
    pass


def _difference(found: Step, single: Step, double: Step, weights: Weights) -> str:
    """Name what differs by more than it may; empty if nothing does. Statistics that are not returned stay those of
    `weights`."""
    slack = max(_RELATIVE * max(1.0, abs(double.loss)), _SLACK * abs(single.loss - double.loss))
    if not abs(found.loss - double.loss) <= slack:
        return f"the loss is {found.loss}, not {double.loss}"
    if found.gradients.keys() != double.gradients.keys():
        return f"gradients of {', '.join(found.gradients.keys() ^ double.gradients.keys())} are missing or too many"
    for name, truth in double.gradients.items():
        error, own = norm_of(found.gradients[name] - truth), norm_of(single.gradients[name] - truth)
        norm = norm_of(truth)
        if not error <= max(_RELATIVE * norm if norm > _ABSOLUTE else _ABSOLUTE, _SLACK * own):
            return f"the gradient of {name} is {error:.2g} off, its norm being {norm:.2g}"
    for name, moved in single.statistics.items():
        # Against float32 alone: the fused kernel, which takes the unbiased variance, does not exist for float64.
        # A mean may be small by chance, its rounding error is that of the numbers it is taken of.
        error, norm = norm_of(found.statistics.get(name, weights[name]) - moved), norm_of(moved)
        if not error <= max(_RELATIVE * norm, _ABSOLUTE):
            return f"{name} is {error:.2g} off, its norm being {norm:.2g}"
    return ""


def _draw(
    candidate: TrainingGraph, objective: Objective, weights: Weights, count: int, scale: float, keyed: Keyed
) -> Case:
    def uniform(shape: tuple[int, ...], low: float = 0.0) -> Array:
        return keyed.uniform(math.prod(shape), low, 1.0).reshape(shape)

    rows, outputs = candidate.target_shape
    match objective.loss.rule.labels:
        case LabelForm.CLASS_NUMBERS | LabelForm.PROBABILITIES:
            y = one_hot(keyed.integers(rows) % np.uint64(outputs), outputs)
        case LabelForm.BITS:
            y = np.round(uniform((rows, outputs)))
        case LabelForm.NUMBERS:
            y = uniform((rows, outputs), -1.0)
    x = uniform(candidate.batch_shape, -1.0) * np.float32(scale)
    return Case(weights, x[:count], y[:count], [uniform(shape) for shape in candidate.noise_shapes])
