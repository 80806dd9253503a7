"""The backward pass of a training graph, and what it costs where most of a network is frozen or pruned.

A graph computes no gradient of what is frozen, and none below the first layer that is trained. Of a kernel that is
pruned it computes the whole gradient: here is what the other way would take, in which only the weights that are kept
have theirs. All is processor time, and takes turns with what it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import numpy as np

from benchmarks.pruning.halves import Described, halves
from benchmarks.pruning.results import Backward
from benchmarks.pruning.speed import in_turns, training_step
from fedprune.graph.graph import Graph
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorClass, TensorTable
from fedprune.runtime.tflite import default_runtime

_SPARSITIES = (0.9, 0.95, 0.98)
_KERNELS = {"CNN-108k, conv2": (32 * 11 * 11, 144, 32), "CNN-108k, dense": (32, 800, 128)}
"""Products that make kernels' gradients: rows, inputs and outputs, of a batch of 32."""
_RUNS = 5
"""Products that are timed at once."""


def backward_costs(name: str, steps: int) -> Iterator[Backward]:
    """Of one of the networks: so many steps of the whole one in turns with those of a network that is partly frozen."""
    whole, _ = halves(name)
    layers = list(dict.fromkeys(spec.layer for spec in whole.table))
    kernels = {spec.name for spec in whole.table.of(TensorClass.PRUNABLE)}
    parts = {
        "first half of the layers frozen": _of_layers(whole.table, layers[: len(layers) // 2]),
        "all layers but the last frozen": _of_layers(whole.table, layers[:-1]),
        "no gradients of kernels that may be pruned": frozenset(kernels),
    }
    for what, names in parts.items():
        yield Backward(name, what, *in_turns(training_step(whole), training_step(_frozen(whole, names)), steps))


def pruned_gradients(steps: int) -> Iterator[Backward]:
    """Of some kernels: the gradients of all weights in turns with those of the weights that are kept."""
    for name, (rows, inputs, outputs) in _KERNELS.items():
        full = _product(rows, inputs, outputs)
        for sparsity in _SPARSITIES:
            kept = _product_of_kept(rows, inputs, outputs, round(inputs * outputs * (1 - sparsity)))
            yield Backward(
                name, f"gradients of kept weights alone, {sparsity:.0%} pruned", *in_turns(full, kept, steps)
            )


def _of_layers(table: TensorTable, layers: list[str]) -> frozenset[str]:
    return frozenset(spec.name for spec in table if spec.layer in layers)


def _frozen(model: Described, names: frozenset[str]) -> Described:
    specs = (
        msgspec.structs.replace(spec, kind=TensorClass.FROZEN) if spec.name in names else spec for spec in model.table
    )
    return replace(model, table=TensorTable(tuple(specs)))


def _product(rows: int, inputs: int, outputs: int) -> Callable[[], object]:
    """A^T D of activations A `[rows, inputs]` and gradients D `[rows, outputs]`, as the training graph has it."""
    graph = Graph()
    a, d = graph.input("a", (rows, inputs)), graph.input("d", (rows, outputs))
    return _run_of(graph.finish("product", {"g": graph.matmul(a, d, transpose_a=True)}))


def _product_of_kept(rows: int, inputs: int, outputs: int, kept: int) -> Callable[[], object]:
    """The `kept` entries of it: the columns of A and D that each needs are gathered, multiplied and added up."""
    graph = Graph()
    a, d = graph.input("a", (rows, inputs)), graph.input("d", (rows, outputs))
    drawn = np.sort(Keyed(0, "kept").integers(kept) % np.uint64(inputs * outputs)).astype(np.int64)
    columns = [
        graph.gather(graph.transpose(x, 1, 0), graph.constant(ids.astype(np.int32)))
        for x, ids in ((a, drawn // outputs), (d, drawn % outputs))
    ]
    return _run_of(graph.finish("product", {"g": graph.sum(graph.multiply(*columns), 1)}))


def _run_of(blob: bytes) -> Callable[[], object]:
    """Runs a file on random inputs, which are put there once."""
    interpreter = default_runtime().interpreter(blob)
    interpreter.allocate_tensors()
    for number, told in enumerate(interpreter.get_input_details()):
        shape = tuple(int(size) for size in told["shape"])
        drawn = Keyed(number, "input").uniform(int(np.prod(shape)), -1.0, 1.0)
        interpreter.set_tensor(told["index"], drawn.reshape(shape))

    def run() -> None:
        for _ in range(_RUNS):
            interpreter.invoke()

    return run
