"""The proof that a training graph learns what tf_keras learns, step by step along one trajectory, and with numbers that
are large or small.

At each step both start from equal weights. What is asked of the graph is to be as near to the truth as rounding allows
(`reference`). Where an activation lies within a rounding error of a kink (of ReLU or a maximum), it may fall on the
wrong side; so a step that fails is tried again with other examples. A mistake that every batch meets fails every time;
one on a branch that few batches take may pass.
Importing this module imports TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from export.proof.errors import NotProven
from export.proof.reference import Reference, Truth
from fedprune.errors import FedpruneError
from fedprune.model.losses import LabelForm, Objective, one_hot
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, TensorSpec, Weights
from fedprune.runtime.self_check import Case, some_weights
from fedprune.runtime.tflite import available_runtimes
from fedprune.runtime.training_graph import TrainingGraph

MARGIN = 10.0
"""The graph may be so many times as far from the truth as rounding noise moves it. Honest graphs of the zoo are within
4, mistakes beyond 100 (`python -m benchmarks.zoo`)."""
_TRIES = 8
_SCALES = (8.0, 1e3, 1e-3)
"""Beside the trajectory's moderate numbers, large ones reach 6 in ReLU6, larger ones the end of the exponential in
float32, and small ones where functions cancel."""
_LEARNING_RATE = 0.01


class Proof:
    """Judges training graphs of one model."""

    def __init__(self, model: Any, tensors: Sequence[TensorSpec], objective: Objective, reference: Reference) -> None:
        self._name = model.name
        self._tensors = tensors
        self._objective = objective
        self._reference = reference

    def check(self, graph: bytes, *, briefly: bool = False) -> None:
        """Compare on every runtime that is installed. `briefly` takes two steps, for a graph that differs from another,
        which was checked, in its batch size alone. Raises `NotProven` where results differ."""
        for runtime in available_runtimes():
            try:
                candidate = TrainingGraph(graph, self._tensors, threads=1, runtime=runtime)
                self._follow(candidate, briefly=briefly)
                if not briefly:
                    self._rescale(candidate)
            except FedpruneError as error:
                raise NotProven(f"model {self._name!r}: {runtime.name} {runtime.version}: {error}") from error

    def _follow(self, candidate: TrainingGraph, *, briefly: bool) -> None:
        """Train with tf_keras; at each step, see whether the graph agrees. Raises `_DiffersError`."""
        keyed = Keyed(0, "verify training graph")
        weights = {spec.name: some_weights(spec, keyed) for spec in self._tensors}
        full = candidate.batch_shape[0]
        counts = (full, full // 2 + 1) if briefly else (full, 1, min(2, full), full // 2 + 1, full)
        for number, count in enumerate(counts, start=1):
            truth = self._agree(candidate, weights, count, 1.0, keyed, f"at step {number}")
            for name, gradient in truth.step.gradients.items():
                weights[name] = (weights[name] - _LEARNING_RATE * gradient).astype(np.float32)
            weights |= {name: array.astype(weights[name].dtype) for name, array in truth.step.statistics.items()}

    def _rescale(self, candidate: TrainingGraph) -> None:
        """See whether the graph agrees where numbers are large or small. Raises `_DiffersError`."""
        for scale in _SCALES:
            keyed = Keyed(0, "verify training graph", f"{scale:g}")
            weights = {spec.name: some_weights(spec, keyed, scale) for spec in self._tensors}
            self._agree(candidate, weights, candidate.batch_shape[0], scale, keyed, f"with inputs up to {scale:g}")

    def _agree(
        self, candidate: TrainingGraph, weights: Weights, count: int, scale: float, keyed: Keyed, where: str
    ) -> Truth:
        """One step with `count` examples; what tf_keras makes of it."""
        for _ in range(_TRIES):
            case = _draw(candidate, self._objective, weights, count, scale, keyed)
            truth, found = self._reference.run(case), case.run(candidate)
            if found.gradients.keys() != truth.step.gradients.keys():
                differing = ", ".join(found.gradients.keys() ^ truth.step.gradients.keys())
                raise _DiffersError(f"gradients of {differing} are missing or too many")
            name, ratio = truth.furthest(found, weights)
            if ratio <= MARGIN:
                return truth
        raise _DiffersError(
            f"{where}, with {count} examples, the training graph differs from tf_keras: {name} is {ratio:.2g} times as "
            "far off as rounding explains"
        )


class _DiffersError(FedpruneError):
    pass


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
