"""The answers of a graph that was written here, for a batch of exactly the size that it has."""

from __future__ import annotations

from collections.abc import Sequence

from fedprune.model.tensors import Array, Inputs
from fedprune.runtime.tflite import default_runtime, foreign_errors


def answers_of(graph: bytes, inputs: Sequence[Inputs]) -> tuple[Array, ...]:
    """What the graph answers, float32 `[batch, ...]` for each of its outputs.

    Args:
        graph: a .tflite file.
        inputs: for each of its inputs float32 or ids, `[batch, ...]`.

    Raises:
        ExportError: nothing here can run it.
    """
    interpreter = default_runtime().interpreter(graph, 1)
    with foreign_errors("inference graph"):
        for details, batch in zip(interpreter.get_input_details(), inputs, strict=True):
            interpreter.set_tensor(details["index"], batch)
        interpreter.invoke()
        return tuple(interpreter.get_tensor(details["index"]) for details in interpreter.get_output_details())
