"""The head of a network with a frozen base, as the bundle has it: graphs that train it alone, and a probe of the base.

The activations that a device keeps are made by an inference graph, whose kernels no training graph's self-check runs;
so the bundle holds what tf_keras answers to a batch, as sketches (`fedprune.runtime.self_check`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from fedprune.errors import TaskError
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, Inputs
from fedprune.runtime.self_check import MAX_BYTES, ProvenGraphs, Sketch, check_sizes, draw_inputs, sums_of
from fedprune.runtime.tflite import one_line

PROBE_EXAMPLES = 4
"""Examples of the base's probe."""
_NAME = "activations"
_SEED = 0


class ProvenHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`graphs` train the head, each proven for a batch size; `activations` are what the base makes of the examples
    that `draw_probe` draws, with the task's frozen weights."""

    graphs: ProvenGraphs
    activations: Sketch


def parse_proven_head(blob: bytes) -> ProvenHead:
    """The member ``head.json`` of a bundle. Raises `TaskError` if it is none."""
    try:
        if len(blob) > MAX_BYTES:
            raise msgspec.ValidationError(f"larger than {MAX_BYTES} bytes")
        head = msgspec.json.decode(blob, type=ProvenHead)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise TaskError(f"the head of the network: {one_line(str(error))}; build the task again") from error
    check_sizes(head.graphs)
    return head


def draw_probe(
    shapes: Sequence[tuple[int, ...]], vocabularies: Sequence[int | None], paddings: Sequence[float | None]
) -> list[Inputs]:
    """Examples for each of the base's inputs, of these `shapes`: numbers from -1 to 1, or ids. Where masks leave some
    steps out, some are padding."""
    keyed = Keyed(_SEED, "base probe")
    return [
        draw_inputs(keyed, (PROBE_EXAMPLES, *shape), vocabulary, padding=padding)
        for shape, vocabulary, padding in zip(shapes, vocabularies, paddings, strict=True)
    ]


def probe_sums(activations: Array) -> tuple[float, ...]:
    """The sums of the probe's activations under random signs."""
    return sums_of(activations, _SEED, _NAME)


def is_as_told(activations: Array, told: Sketch) -> bool:
    """True if a device's activations of the probe are those of tf_keras."""
    errors = np.subtract(probe_sums(activations), told.sums)
    return bool(np.abs(errors).max() <= told.tolerance)  # false where something is NaN
