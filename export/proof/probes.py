"""The data of a device's self-check: probes with tf_keras' answers, and tolerances that honest runtimes keep.

How far honest runtimes differ is measured: tf_keras in float32, with every weight and input off by some rounding
errors, is compared with tf_keras in float64. A probe is better the less that is; where an activation lies close to a
kink (of ReLU or a maximum) it is much, so that several seeds are tried. Importing this module imports TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from export.proof.errors import NotProven
from export.proof.reference import Reference, norm_of
from fedprune.model.losses import Objective
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, TensorSpec
from fedprune.runtime.self_check import Case, Probe, SelfCheck, Sketch, draw_case, furthest, outputs_of, sums_of
from fedprune.runtime.tflite import available_runtimes
from fedprune.runtime.training_graph import Step, TrainingGraph

_RELATIVE, _ABSOLUTE = 1e-4, 1e-5
"""Tolerances are never below these: of a tensor's norm; for tensors that are zero but for rounding. Ten times what the
proof allows: a kernel that is less exact than ours harms nobody, a device that is refused for it is lost."""
_NUDGE = 2.0**-20
"""Each number is put so far off, relative to itself: 16 rounding errors of float32."""
_MARGIN = 16.0
"""Tolerance over what the nudge changed: a sketch of a random error is six times its norm once in 10^9."""
_ROOM = 0.25
"""The part of its tolerance that a runtime here may use up."""
_LARGE = 8.0
"""A probe's scale at which ReLU6 is cut off above in every layer."""
_TIGHT = 1e-3
"""Tolerances within so much of the tensors' norms are good enough."""
_SEEDS, _EXAMPLES = 8, 16
"""Until then so many seeds are tried, and no more examples than these once a probe will do: they take time, and among
many examples there is always one close to a kink."""
_SMALL = 1e-3
"""A tensor of a smaller norm does not count as loose: it may be zero but for rounding."""


def make_self_check(model: Any, tensors: Sequence[TensorSpec], objective: Objective, graph: bytes) -> SelfCheck:
    """The self-check of `graph`, which was proven: a full batch of large numbers, and of moderate ones a full batch,
    two examples, and a single one.

    Raises `NotProven` unless every runtime that is installed passes with room to spare.
    """
    graphs = [TrainingGraph(graph, tensors, threads=1, runtime=runtime) for runtime in available_runtimes()]
    judge = _Judge(graphs[0], tensors, Reference(model, "float32", objective), Reference(model, "float64", objective))
    full = graphs[0].batch_shape[0]
    probes = []
    for examples, scale in [(full, _LARGE), *((count, 1.0) for count in sorted({full, min(2, full), 1}, reverse=True))]:
        probe = _tightest(judge, graphs, tensors, examples, scale)
        if probe is None:
            raise NotProven(
                f"model {model.name!r}: with {examples} examples no runtime is sure to pass the self-check; "
                "train with the keras trainer"
            )
        probes.append(probe)
    return SelfCheck(tuple(probes))


def _tightest(
    judge: _Judge, graphs: Sequence[TrainingGraph], tensors: Sequence[TensorSpec], examples: int, scale: float
) -> Probe | None:
    """The best of some probes that all graphs pass; None if there is none."""
    best, least = None, math.inf
    for seed in range(_SEEDS):
        looseness, probe = judge.probe(seed, examples, scale)
        if looseness < least and all(furthest(graph, tensors, probe)[1] <= _ROOM for graph in graphs):
            best, least = probe, looseness
        if best is not None and (least <= _TIGHT or examples * (seed + 1) >= _EXAMPLES):
            break
    return best


class _Judge:
    """Says what the right answers are, and how far off an honest runtime may be."""

    def __init__(
        self, graph: TrainingGraph, tensors: Sequence[TensorSpec], single: Reference, double: Reference
    ) -> None:
        self._graph = graph
        self._tensors = tensors
        self._single = single
        self._double = double

    def probe(self, seed: int, examples: int, scale: float) -> tuple[float, Probe]:
        """A probe, and its looseness: its largest tolerance relative to its tensor."""
        case = draw_case(self._graph, self._tensors, seed, examples, scale)
        plain, nudged = (self._outputs(self._single.run(each)) for each in (case, _nudge(case, seed)))
        # The fused kernel, which takes the unbiased variance for a statistic, does not exist for float64.
        truth = plain | {name: a for name, a in self._outputs(self._double.run(case)).items() if name[0] != "s"}
        looseness, answers = 0.0, {}
        for name, array in truth.items():
            noise, norm = max(norm_of(plain[name] - array), norm_of(nudged[name] - array)), norm_of(array)
            tolerance = _rounded_up(max(_MARGIN * noise, _RELATIVE * norm, _ABSOLUTE))
            answers[name] = Sketch(tolerance, _brief(sums_of(array, seed, name)))
            if norm > _SMALL:
                looseness = max(looseness, tolerance / norm)
        return looseness, Probe(seed, examples, scale, answers)

    def _outputs(self, step: Step) -> dict[str, Array]:
        """Of what tf_keras computed, the part that the graph returns."""
        statistics = {name: step.statistics[name] for name in self._graph.moved}
        return outputs_of(replace(step, statistics=statistics), self._tensors)


def _nudge(case: Case, seed: int) -> Case:
    keyed = Keyed(seed, "nudge")

    def nudged(array: Array) -> Array:
        return array * (1.0 + keyed.uniform(array.size, -_NUDGE, _NUDGE).reshape(array.shape))

    weights = {name: nudged(array) for name, array in case.weights.items()}
    return replace(case, weights=weights, x=nudged(case.x))


def _rounded_up(tolerance: float) -> float:
    """To a power of two, so that a rounding error elsewhere seldom makes another bundle."""
    return float(2.0 ** math.ceil(math.log2(tolerance)))


def _brief(sums: tuple[float, ...]) -> tuple[float, float, float]:
    """Seven digits, for the same reason."""
    first, second, third = (float(f"{value:.7g}") for value in sums)
    return first, second, third
