"""The data of a device's self-check: probes with tf_keras' answers, and tolerances that honest runtimes keep.

How far honest runtimes differ is known from rounding noise (`reference`). A probe is better the less that is; where an
activation lies close to a kink (of ReLU or a maximum) it is much, so that several seeds are tried. Importing this
module imports TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from export.proof.errors import NotProven
from export.proof.reference import Reference, norm_of
from fedprune.model.tensors import TensorSpec
from fedprune.runtime.self_check import Probe, SelfCheck, Sketch, furthest, outputs_of, sums_of
from fedprune.runtime.tflite import available_runtimes
from fedprune.runtime.training_graph import TrainingGraph

_RELATIVE, _ABSOLUTE = 1e-4, 1e-5
"""Tolerances are never below these: of a tensor's norm; for tensors that are zero but for rounding. More than the
proof allows: a kernel that is less exact than ours harms nobody, a device that is refused for it is lost."""
_MARGIN = 64.0
"""Tolerance over the noise: a sketch of a random error is six times its norm once in 10^9, and the kernels of other
instruction sets round and add in other orders."""
_ROOM = 0.25
"""The part of its tolerance that a runtime here may use up."""
_LARGE = (1e3, 8.0)
"""Scales of probes: at which exponentials of logits overflow, and at which ReLU6 is cut off above in every layer."""
_TIGHT = 4e-3
"""Tolerances within so much of the tensors' norms are good enough."""
_SEEDS, _EXAMPLES = 8, 16
"""Until then so many seeds are tried, and no more examples than these once a probe will do: they take time, and among
many examples there is always one close to a kink."""
_SMALL = 1e-3
"""A tensor of a smaller norm does not count as loose: it may be zero but for rounding."""


def make_self_check(reference: Reference, tensors: Sequence[TensorSpec], graph: bytes, *, briefly: bool) -> SelfCheck:
    """The self-check of `graph`, which was proven: full batches of large numbers, where float32 has room for what
    becomes of them, and of moderate ones a full batch, two examples, and a single one; `briefly` the full batch of
    moderate ones alone.

    Raises `NotProven` unless every runtime that is installed passes with room to spare.
    """
    graphs = [TrainingGraph(graph, tensors, threads=1, runtime=runtime) for runtime in available_runtimes()]
    full = graphs[0].batch_size
    moderate = [(count, 1.0) for count in sorted({full, min(2, full), 1}, reverse=True)]
    probes = []
    for examples, scale in moderate[:1] if briefly else [*((full, large) for large in _LARGE), *moderate]:
        probe = _tightest(reference, graphs, tensors, examples, scale)
        if probe is not None:
            probes.append(probe)
        elif scale not in _LARGE or _is_finite(reference, graphs[0], tensors, examples, scale):
            raise NotProven(f"with {examples} examples no runtime is sure to pass the self-check")
    return SelfCheck(tuple(probes))


def _is_finite(
    reference: Reference, graph: TrainingGraph, tensors: Sequence[TensorSpec], examples: int, scale: float
) -> bool:
    """True if float32 has room for what becomes of numbers up to `scale`, at least of some."""
    return any(reference.run_drawn(graph, tensors, seed, examples, scale)[1].finite for seed in range(_SEEDS))


def _tightest(
    reference: Reference, graphs: Sequence[TrainingGraph], tensors: Sequence[TensorSpec], examples: int, scale: float
) -> Probe | None:
    """The best of some probes that all graphs pass; None if there is none."""
    best, least = None, math.inf
    for seed in range(_SEEDS):
        if not reference.run_drawn(graphs[0], tensors, seed, examples, scale)[1].finite:
            continue
        looseness, probe = _probe(reference, graphs[0], tensors, seed, examples, scale)
        if looseness < least and all(furthest(graph, tensors, probe)[1] <= _ROOM for graph in graphs):
            best, least = probe, looseness
        if best is not None and (least <= _TIGHT or examples * (seed + 1) >= _EXAMPLES):
            break
    return best


def _probe(
    reference: Reference,
    graph: TrainingGraph,
    tensors: Sequence[TensorSpec],
    seed: int,
    examples: int,
    scale: float,
) -> tuple[float, Probe]:
    """A probe, and its looseness: its largest tolerance relative to its tensor."""
    _, truth = reference.run_drawn(graph, tensors, seed, examples, scale)
    returned = replace(truth.step, statistics={name: truth.step.statistics[name] for name in graph.moved})
    noises = {"loss": truth.loss_noise} | _by_output(truth.noise, tensors)
    looseness, answers = 0.0, {}
    for output, array in outputs_of(returned, tensors).items():
        norm = norm_of(array)
        answers[output] = brief_sketch(
            max(_MARGIN * noises[output], _RELATIVE * norm, _ABSOLUTE), sums_of(array, seed, output)
        )
        if norm > _SMALL:
            looseness = max(looseness, answers[output].tolerance / norm)
    return looseness, Probe(seed, examples, scale, answers)


def _by_output(noise: dict[str, float], tensors: Sequence[TensorSpec]) -> dict[str, float]:
    """The noise of each tensor by the names that its gradient or new value would have as an output."""
    return {f"{kind}{row}": noise.get(spec.name, 0.0) for row, spec in enumerate(tensors) for kind in "gs"}


def brief_sketch(tolerance: float, sums: tuple[float, ...]) -> Sketch:
    """A sketch of seven digits, with the next power of two for its tolerance, so that a rounding error elsewhere seldom
    makes another bundle."""
    first, second, third = (float(f"{value:.7g}") for value in sums)
    return Sketch(float(2.0 ** math.ceil(math.log2(tolerance))), (first, second, third))
