"""The self-check: whether a runtime computes with a training graph, on this machine, what tf_keras computes.

A bundle holds what tf_keras answered to a few *probes*: batches and weights that everybody draws alike from a seed
(`fedprune.model.randomness`), so that only the answers travel. Each output of the graph is told by *sketches*, its sums
under random signs (Alon, Matias and Szegedy 1996, "The space complexity of approximating the frequency moments",
section 2.2): those of an error are, in root mean square, as large as its norm, so that three numbers stand for a tensor
of any size. A tolerance belongs to each, since instruction sets round and add differently and networks differ in how
much that matters; a kernel that is wrong is off by far more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedprune.errors import TaskError
from fedprune.model.losses import one_hot
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, Inputs, TensorClass, TensorSpec, Weights
from fedprune.runtime.tflite import one_line
from fedprune.runtime.training_graph import Step, TrainingGraph

MAX_BYTES = 2**22
"""Bytes of a bundle's `ProvenGraph`s."""
MAX_BATCH = 2**16

KERAS_INSTEAD = "train with the keras trainer, or another version of the runtime"

_PADDED_OF = 3
"""One of so many steps is padding where there may be some."""
_EMBEDDINGS = "embeddings"
_SUMS = 3
_Sum = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
_Tolerance = Annotated[float, msgspec.Meta(gt=0, le=1e30)]


class RuntimeUnfit(TaskError):
    """This machine cannot run the task's training graph, or not be trusted with it; the keras trainer may be able to
    train."""


class Sketch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A tensor's sums under random signs, and how far off each may be."""

    tolerance: _Tolerance
    sums: tuple[_Sum, _Sum, _Sum]


class Probe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A batch of `examples`, drawn from `seed`, and the sketches of all that the graph returns, by outputs' names.

    Inputs, and the weights that are added or multiplied entry by entry, are `scale` times as large as elsewhere: only
    large numbers reach 6 in ReLU6.
    """

    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    examples: Annotated[int, msgspec.Meta(ge=1, le=2**20)]
    scale: Annotated[float, msgspec.Meta(gt=0, le=1e3)]
    answers: dict[str, Sketch]


class SelfCheck(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a runtime is asked."""

    probes: Annotated[tuple[Probe, ...], msgspec.Meta(min_length=1, max_length=8)]


class ProvenGraph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A training graph that was compared with tf_keras when the task was built, and that each device writes again.

    `batch_size` is what it is written for, `sha256` (hex) what its bytes must be, and `memory_bytes` about what its
    values take while it runs.
    """

    batch_size: Annotated[int, msgspec.Meta(ge=1, le=MAX_BATCH)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    memory_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    self_check: SelfCheck


ProvenGraphs = Annotated[tuple[ProvenGraph, ...], msgspec.Meta(min_length=1, max_length=16)]
"""One for each of some batch sizes."""


@dataclass(frozen=True, eq=False)
class Case:
    """The inputs of a training graph: weights; for each input of the model `[n, ...]` examples (numbers or ids), for
    each output one-hot targets; the noise of a full batch; how much each example counts in the loss of each output."""

    weights: Weights
    x: list[Inputs]
    y: list[Array]
    noise: list[Array]
    importance: Array

    def run(self, graph: TrainingGraph) -> Step:
        return graph.run(self.weights, self.x, self.y, self.noise, self.importance)


def parse_proven_graphs(blob: bytes) -> tuple[ProvenGraph, ...]:
    """The member ``graphs.json`` of a bundle. Raises `TaskError` if it is none."""
    try:
        if len(blob) > MAX_BYTES:
            raise msgspec.ValidationError(f"larger than {MAX_BYTES} bytes")
        graphs = msgspec.json.decode(blob, type=ProvenGraphs)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise TaskError(f"the digests of the training graphs: {one_line(str(error))}; build the task again") from error
    check_sizes(graphs)
    return graphs


def check_sizes(graphs: ProvenGraphs) -> None:
    """Raise `TaskError` if two graphs are for one batch size."""
    if len({graph.batch_size for graph in graphs}) != len(graphs):
        raise TaskError("the digests of the training graphs: two for one batch size; build the task again")


def run_self_check(graph: TrainingGraph, tensors: Sequence[TensorSpec], self_check: SelfCheck) -> None:
    """Run every probe. Raises `RuntimeUnfit`, saying where, `TaskError` if the probes are another graph's, and
    `ExportError` if the runtime fails."""
    for number, probe in enumerate(self_check.probes, start=1):
        output, excess = furthest(graph, tensors, probe)
        if not excess <= 1.0:
            raise RuntimeUnfit(
                f"{graph.runtime.name} {graph.runtime.version} computes something else on this device than TensorFlow: "
                f"{_describe(output, tensors)} is {excess:.2g} times as far off as it may be, in batch {number} of "
                f"{len(self_check.probes)}; {KERAS_INSTEAD}"
            )


def furthest(graph: TrainingGraph, tensors: Sequence[TensorSpec], probe: Probe) -> tuple[str, float]:
    """The output that is furthest off, and by how many of its tolerances. Raises `TaskError` if the probe does not
    fit the graph, `ExportError` if the runtime fails."""
    if probe.examples > graph.batch_size or probe.answers.keys() != _outputs(graph, tensors):
        raise TaskError("the self-check does not fit the training graph; build the task again")
    found = outputs_of(draw_case(graph, tensors, probe.seed, probe.examples, probe.scale).run(graph), tensors)
    excesses = {name: _excess(found[name], sketch, probe.seed, name) for name, sketch in probe.answers.items()}
    return max(excesses.items(), key=lambda item: (math.isnan(item[1]), item[1]))


def draw_case(graph: TrainingGraph, tensors: Sequence[TensorSpec], seed: int, examples: int, scale: float) -> Case:
    """Weights and a batch of `examples`: the same for graphs of any batch size that is no smaller."""
    keyed = Keyed(seed, "self-check", examples, f"{scale:g}")  # weights of its own, so that no mistake hides in all
    weights = draw_weights(tensors, keyed, scale)
    x = [
        draw_inputs(keyed, (examples, *shape), vocabulary, scale, padding=padding)
        for shape, vocabulary, padding in zip(graph.input_shapes, graph.vocabularies, graph.paddings, strict=True)
    ]
    y = [draw_classes(keyed, (examples, *shape)) for shape in graph.target_shapes]
    noise = [np.zeros(shape, np.float32) for shape in graph.noise_shapes]
    for array in noise:
        array[:examples] = _uniform(keyed, (examples, *array.shape[1:]), 0.0)
    return Case(weights, x, y, noise, draw_importance(keyed, (examples, len(y))))


def draw_importance(keyed: Keyed, shape: tuple[int, int]) -> Array:
    """How much examples count: something else for each of them and each output."""
    return keyed.uniform(math.prod(shape), 0.5, 1.5).reshape(shape)


def draw_inputs(
    keyed: Keyed, shape: tuple[int, ...], vocabulary: int | None, scale: float = 1.0, *, padding: float | None = None
) -> Inputs:
    """Numbers up to `scale`, of either sign; or ids of a `vocabulary`. With `padding` that fills some steps, of `shape`
    `[examples, steps, ...]`, but never all of an example."""
    if vocabulary is None:
        x: Inputs = _uniform(keyed, shape, -1.0) * np.float32(scale)
    else:
        x = (keyed.integers(math.prod(shape)) % np.uint64(vocabulary)).astype(np.int32).reshape(shape)
    if padding is not None and len(shape) > 1:
        padded = (keyed.integers(math.prod(shape[:2])) % np.uint64(_PADDED_OF) == 0).reshape(shape[:2])
        kept = np.arange(shape[0]) % shape[1]  # another step of each example, so that some begin with padding
        padded[np.arange(shape[0]), kept] = False
        x[padded] = padding
        if vocabulary is not None:
            x[np.arange(shape[0]), kept] = np.maximum(x[np.arange(shape[0]), kept], 1)
    return x


def draw_classes(keyed: Keyed, shape: tuple[int, ...]) -> Array:
    """One-hot rows: float32 of this shape, whose last axis is the classes."""
    *rows, classes = shape
    return one_hot((keyed.integers(math.prod(rows)) % np.uint64(classes)).reshape(rows), classes)


def draw_weights(tensors: Sequence[TensorSpec], keyed: Keyed, scale: float = 1.0) -> dict[str, Array]:
    """Weights to train from. Moving statistics are of either sign: training moves them without asking which are
    variances, and of a mean that is never negative a ReLU would not be seen."""
    return {
        spec.name: _uniform(keyed, spec.shape, -1.0)
        if spec.kind is TensorClass.STATISTICS
        else some_weights(spec, keyed, scale)
        for spec in tensors
    }


def some_weights(spec: TensorSpec, keyed: Keyed, scale: float = 1.0) -> Array:
    """A tensor that is nowhere zero, and positive where it may be a variance.

    Kernels keep activations and gradients at `scale`: U(-2, 2) over the root of the inputs lies between what ReLU
    networks want (He et al. 2015, the root of 6) and linear ones (the root of 3). A table of embeddings, which goes by
    Keras' name for it, stands in for inputs that are numbers, and is as large as they are. Signs take turns in a
    vector, so that what is added to it is never positive throughout: a ReLU too many would not be noticed.
    """
    if spec.kind is TensorClass.INTEGER:
        return np.zeros(spec.shape, spec.dtype)
    if spec.kind is TensorClass.STATISTICS or (spec.kind is TensorClass.FROZEN and len(spec.shape) < 2):
        return _uniform(keyed, spec.shape, 0.5)
    is_kernel = len(spec.shape) > 1 and spec.name.rpartition("/")[2] != _EMBEDDINGS
    factor = 2.0 / math.sqrt(max(4.0, spec.size / spec.shape[-1])) if is_kernel else scale
    drawn = _uniform(keyed, spec.shape, -1.0) * np.float32(factor)
    return _both_signs(drawn) if len(spec.shape) == 1 else drawn


def _both_signs(vector: Array) -> Array:
    signs = np.where(np.arange(vector.size) % 2, -1, 1) * np.sign(vector[:1])
    signed: Array = (np.abs(vector) * signs).astype(vector.dtype)
    return signed


def outputs_of(step: Step, tensors: Sequence[TensorSpec]) -> dict[str, Array]:
    """A step's results by the names of the graph's outputs: loss, then `gR` and `sR` for rows of the table."""
    outputs = {"loss": np.array([step.loss])}
    for row, spec in enumerate(tensors):
        for kind, arrays in (("g", step.gradients), ("s", step.statistics)):
            if spec.name in arrays:
                outputs[f"{kind}{row}"] = arrays[spec.name]
    return outputs


def sums_of(array: Array, seed: int, output: str) -> tuple[float, ...]:
    """The sums of a tensor of any shape under random signs, which are the same for every tensor of that name."""
    keyed = Keyed(seed, "self-check signs", output)
    total = float(array.sum(dtype=np.float64))
    return tuple(2.0 * float(array.sum(dtype=np.float64, where=_coins(keyed, array))) - total for _ in range(_SUMS))


def _outputs(graph: TrainingGraph, tensors: Sequence[TensorSpec]) -> set[str]:
    """The names of what `outputs_of` a step are."""
    gradients = {f"g{row}" for row, spec in enumerate(tensors) if spec.name in graph.trained}
    return {"loss"} | gradients | {f"s{row}" for row, spec in enumerate(tensors) if spec.name in graph.moved}


def _excess(found: Array, sketch: Sketch, seed: int, output: str) -> float:
    errors = np.subtract(sums_of(found, seed, output), sketch.sums)
    return float(np.abs(errors).max()) / sketch.tolerance


def _coins(keyed: Keyed, array: Array) -> NDArray[np.bool_]:
    """A coin for each entry of `array`: the bits of integers, least significant first."""
    integers = keyed.integers(-(-array.size // 64)).astype("<u8")
    return (
        np.unpackbits(integers.view(np.uint8), count=array.size, bitorder="little").view(np.bool_).reshape(array.shape)
    )


def _uniform(keyed: Keyed, shape: Sequence[int], low: float) -> Array:
    return keyed.uniform(math.prod(shape), low, 1.0).reshape(shape)


def _describe(output: str, tensors: Sequence[TensorSpec]) -> str:
    if output == "loss":
        return "the loss"
    name = one_line(tensors[int(output[1:])].name)
    return f"the gradient of {name}" if output.startswith("g") else name
