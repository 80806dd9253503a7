"""The proof that a training graph learns what tf_keras learns: from drawn weights, with numbers that are large or
small, and step by step along one trajectory.

Both always start from equal weights. What is asked of the graph is to be as near to the truth as rounding allows
(`reference`). Where an activation lies within a rounding error of a kink (of ReLU or a maximum), it may fall on the
wrong side; so what fails is tried again with other examples. A mistake that every batch meets fails every time;
one on a branch that few batches take may pass.
Importing this module imports TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from export.proof.errors import NotProven
from export.proof.reference import GRADIENT_OF, Reference, Truth
from fedprune.errors import FedpruneError
from fedprune.model.losses import LabelForm, Objective
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, TensorSpec, Weights
from fedprune.runtime.self_check import Case, draw_classes, draw_importance, draw_inputs, draw_weights
from fedprune.runtime.tflite import available_runtimes
from fedprune.runtime.training_graph import Step, TrainingGraph

MARGIN = 8.0
"""The graph may be so many times as far from the truth as rounding noise moves it. Honest graphs were within 7,
mistakes beyond 21 (`python -m benchmarks.zoo`)."""
_TRIES = 8
_SCALES = (8.0, 1e3, 1e-3)
"""Beside the trajectory's moderate numbers, large ones reach 6 in ReLU6, larger ones the end of the exponential in
float32, and small ones where functions cancel."""
_LEARNING_RATE = 0.01


@dataclass(frozen=True)
class Trial:
    """A question that is asked with several batches, until one is answered: the `ratios` of each candidate's error to
    the noise, `[batches, candidates]`, and what was `furthest` off."""

    where: str
    ratios: tuple[tuple[float, ...], ...]
    furthest: tuple[tuple[str, ...], ...]

    def best(self, candidate: int) -> tuple[float, str]:
        """The smallest ratio of a candidate, and what is so far off: the loss, where no float32 holds it."""
        answers = ((row[candidate], what[candidate]) for row, what in zip(self.ratios, self.furthest, strict=True))
        return min(answers, default=(math.inf, "the loss"))


class Proof:
    """Judges training graphs of one model."""

    def __init__(
        self, model: Any, tensors: Sequence[TensorSpec], objectives: Sequence[Objective], reference: Reference
    ) -> None:
        self._name = model.name
        self._tensors = tensors
        self._objectives = objectives
        self._reference = reference

    def check(self, graph: bytes, *, briefly: bool = False) -> None:
        """Compare on every runtime that is installed. `briefly` asks for two batches, of a graph that differs from
        another, which was checked, in its batch size alone. Raises `NotProven` where results differ."""
        runtimes = available_runtimes()
        try:
            candidates = [TrainingGraph(graph, self._tensors, threads=1, runtime=runtime) for runtime in runtimes]
            for trial in self.trials(candidates, briefly=briefly):
                for number, runtime in enumerate(runtimes):
                    ratio, what = trial.best(number)
                    if not ratio <= MARGIN:
                        raise NotProven(
                            f"{runtime.name} {runtime.version}: {trial.where}, the training graph differs from "
                            f"tf_keras: {what} is {ratio:.2g} times as far off as rounding explains",
                            what.removeprefix(GRADIENT_OF),
                        )
        except FedpruneError as error:
            tensor = error.tensor if isinstance(error, NotProven) else None
            raise NotProven(f"model {self._name!r}: {error}", tensor) from error

    def trials(self, candidates: Sequence[TrainingGraph], *, briefly: bool) -> Iterator[Trial]:
        """Ask graphs of one batch size: from drawn weights a full batch and a partial one, and unless `briefly` large
        numbers, where float32 has room for what becomes of them, small ones, and a trajectory. Raises `NotProven` if
        they return other tensors than tf_keras."""
        full = candidates[0].batch_size
        yield self._ask_drawn(candidates, full, 1.0)
        if briefly:
            yield self._ask_drawn(candidates, max(full // 2, 1), 1.0)
            return
        for scale in _SCALES:
            trial = self._ask_drawn(candidates, full, scale)
            if trial.ratios or scale <= 1.0:
                yield trial
        yield from self._follow(candidates, full)

    def _ask_drawn(self, candidates: Sequence[TrainingGraph], count: int, scale: float) -> Trial:
        def cases() -> Iterator[tuple[Case, Truth]]:
            for seed in range(_TRIES):
                case, truth = self._reference.run_drawn(candidates[0], self._tensors, seed, count, scale)
                if truth.finite:
                    yield case, truth

        return _ask(candidates, f"with {count} examples up to {scale:g}", cases())

    def _follow(self, candidates: Sequence[TrainingGraph], full: int) -> Iterator[Trial]:
        """Train with tf_keras, from the beginning several times; at each step, ask the graphs."""
        keyed = Keyed(0, "verify training graph")
        for start, counts in enumerate(((1, full // 2 + 1), (min(2, full), full)), start=1):
            weights: Weights = draw_weights(self._tensors, keyed)
            for number, count in enumerate(counts, start=1):
                cases = self._cases(candidates[0], weights, count, keyed)
                first = next(cases)
                yield _ask(
                    candidates, f"at step {number} of run {start}, with {count} examples", chain((first,), cases)
                )
                weights = _moved(weights, first[1].step)

    def _cases(
        self, candidate: TrainingGraph, weights: Weights, count: int, keyed: Keyed
    ) -> Iterator[tuple[Case, Truth]]:
        for _ in range(_TRIES):
            case = _draw(candidate, self._objectives, weights, count, keyed)
            yield case, self._reference.run(case)


def _ask(candidates: Sequence[TrainingGraph], where: str, cases: Iterator[tuple[Case, Truth]]) -> Trial:
    """Ask for one batch after another until each candidate has answered one."""
    ratios: list[tuple[float, ...]] = []
    furthest: list[tuple[str, ...]] = []
    for case, truth in cases:
        judged = [_judge(candidate, case, truth) for candidate in candidates]
        ratios.append(tuple(ratio for ratio, _ in judged))
        furthest.append(tuple(what for _, what in judged))
        if all(min(column) <= MARGIN for column in zip(*ratios, strict=True)):
            break
    return Trial(where, tuple(ratios), tuple(furthest))


def _judge(candidate: TrainingGraph, case: Case, truth: Truth) -> tuple[float, str]:
    found = case.run(candidate)
    if found.gradients.keys() != truth.step.gradients.keys():
        differing = ", ".join(found.gradients.keys() ^ truth.step.gradients.keys())
        raise NotProven(f"gradients of {differing} are missing or too many")
    what, ratio = truth.furthest(found, case.weights)
    return (math.inf if math.isnan(ratio) else ratio), what


def _moved(weights: Weights, step: Step) -> Weights:
    """The weights after a step of gradient descent."""
    moved: dict[str, Array] = dict(weights)
    for name, gradient in step.gradients.items():
        moved[name] = (weights[name] - _LEARNING_RATE * gradient).astype(np.float32)
    return moved | {name: array.astype(weights[name].dtype) for name, array in step.statistics.items()}


def _draw(
    candidate: TrainingGraph, objectives: Sequence[Objective], weights: Weights, count: int, keyed: Keyed
) -> Case:
    full = candidate.batch_size
    y = [
        _draw_targets(objective, (full, *shape), keyed)
        for objective, shape in zip(objectives, candidate.target_shapes, strict=True)
    ]
    x = [
        draw_inputs(keyed, (full, *shape), vocabulary, padding=padding)
        for shape, vocabulary, padding in zip(
            candidate.input_shapes, candidate.vocabularies, candidate.paddings, strict=True
        )
    ]
    noise = [_uniform(keyed, shape) for shape in candidate.noise_shapes]
    importance = draw_importance(keyed, (full, len(y)))
    return Case(weights, [each[:count] for each in x], [each[:count] for each in y], noise, importance[:count])


def _draw_targets(objective: Objective, shape: tuple[int, ...], keyed: Keyed) -> Array:
    match objective.loss.rule.labels:
        case LabelForm.CLASS_NUMBERS | LabelForm.PROBABILITIES:
            return draw_classes(keyed, shape)
        case LabelForm.BITS:
            bits: Array = np.round(_uniform(keyed, shape))
            return bits
        case LabelForm.NUMBERS:
            return _uniform(keyed, shape, -1.0)


def _uniform(keyed: Keyed, shape: tuple[int, ...], low: float = 0.0) -> Array:
    return keyed.uniform(math.prod(shape), low, 1.0).reshape(shape)
