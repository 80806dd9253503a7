"""From a network's description to its training graph.

`fedprune.runtime.training_graph` says what it takes and gives.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedprune.errors import TaskError
from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.context import Context
from fedprune.graph.graph import Graph
from fedprune.graph.losses import mean_loss
from fedprune.graph.normalization import Examples
from fedprune.graph.operations import absolute_sum, square_sum
from fedprune.graph.rules import Pending, apply_layer
from fedprune.model.losses import Loss
from fedprune.model.tensors import TensorClass, TensorTable
from fedprune.network.description import Network, Penalty
from fedprune.runtime.training_graph import SIGNATURE

_TRAINED = (TensorClass.PRUNABLE, TensorClass.DENSE)


@dataclass(frozen=True)
class WrittenGraph:
    """The file, and about how many bytes its values take while it runs."""

    blob: bytes
    memory_bytes: int


def write_training_graph(network: Network, table: TensorTable, loss: Loss, batch_size: int) -> WrittenGraph:
    """`network`, which was checked, as a TFLite file that trains in batches of `batch_size`.

    Raises `TaskError` if the graph would be too large, or a tensor that is to be trained changes nothing.
    """
    graph = Graph()
    tape = Tape(graph)
    shapes = network.shapes()
    x = graph.input("x", (batch_size, *network.inputs[0]), network.vocabulary, network.padding)
    y = graph.input("y", (batch_size, *shapes[network.outputs[0]]))
    weight = graph.input("weight", (batch_size, 1))
    count = graph.sum(weight, 0)
    examples = Examples(share=graph.divide(weight, count), count=graph.reshape(count, (1,)))
    weights = {
        spec.name: tape.leaf(graph.input(f"w{row}", spec.shape), differentiable=spec.kind in _TRAINED)
        for row, spec in enumerate(table)
    }
    frozen = frozenset(spec.name for spec in table.of(TensorClass.FROZEN))
    context = Context(tape, weights.__getitem__, examples, frozen)
    output = _run(context, network, tape.leaf(x, differentiable=False))
    losses = [mean_loss(tape, loss, output, y, examples.share)]
    for penalty in network.penalties:
        losses += _penalise(tape, weights[penalty.tensor], penalty)
    gradients = tape.gradients(losses)
    total = losses[0].tensor
    for loss_of_penalty in losses[1:]:
        total = graph.add(total, loss_of_penalty.tensor)
    outputs = {"loss": total}
    for row, spec in enumerate(table):
        if spec.kind in _TRAINED:
            if weights[spec.name] not in gradients:
                raise TaskError(f"tensor {spec.name[:80]!r} changes no output; freeze it, or leave its layer out")
            outputs[f"g{row}"] = gradients[weights[spec.name]]
        elif spec.name in context.moved:
            outputs[f"s{row}"] = context.moved[spec.name]
    return WrittenGraph(graph.finish(SIGNATURE, outputs), graph.live_bytes())


def _run(context: Context, network: Network, x: Value) -> Value:
    values = [Pending(x)]
    for layer, call in network.steps():
        values.append(apply_layer(context, layer, [values[number] for number in call.inputs]))
    return values[network.outputs[0]].get()


def _penalise(tape: Tape, weight: Value, penalty: Penalty) -> list[Value]:
    losses = []
    if penalty.l1:
        losses.append(absolute_sum(tape, weight, penalty.l1))
    if penalty.l2:
        losses.append(square_sum(tape, weight, penalty.l2))
    return losses
