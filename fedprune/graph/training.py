"""From a network's description to its training graph.

`fedprune.runtime.training_graph` says what it takes and gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedprune.errors import TaskError
from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.batch_normalization import Examples
from fedprune.graph.context import Context
from fedprune.graph.graph import Graph, Tensor
from fedprune.graph.losses import mean_loss
from fedprune.graph.operations import absolute_sum, square_sum
from fedprune.graph.rules import Pending, apply_layer
from fedprune.model.losses import Objective
from fedprune.model.tensors import TensorClass, TensorTable
from fedprune.network.description import Network, Penalty
from fedprune.runtime.training_graph import SIGNATURE

_TRAINED = (TensorClass.PRUNABLE, TensorClass.DENSE)


@dataclass(frozen=True)
class WrittenGraph:
    """The file, and about how many bytes its values take while it runs."""

    blob: bytes
    memory_bytes: int


def write_training_graph(
    network: Network, table: TensorTable, objectives: Sequence[Objective], batch_size: int
) -> WrittenGraph:
    """`network`, which was checked, as a TFLite file that trains in batches of `batch_size`.

    `objectives` are those of its outputs. Raises `TaskError` if the graph would be too large, or a tensor that is to be
    trained changes nothing.
    """
    graph = Graph()
    tape = Tape(graph)
    shapes = network.shapes()
    inputs = [
        tape.leaf(graph.input(f"x{number}", (batch_size, *shape), vocabulary, padding), differentiable=False)
        for number, (shape, vocabulary, padding) in enumerate(
            zip(network.inputs, network.vocabularies, network.paddings, strict=True)
        )
    ]
    targets = [graph.input(f"y{number}", (batch_size, *shapes[value])) for number, value in enumerate(network.outputs)]
    present = graph.input("present", (batch_size, 1))
    importance = graph.input("importance", (batch_size, len(targets)))
    count = graph.sum(present, 0)
    examples = Examples(share=graph.divide(present, count), count=graph.reshape(count, (1,)))
    weights = {
        spec.name: tape.leaf(graph.input(f"w{row}", spec.shape), differentiable=spec.kind in _TRAINED)
        for row, spec in enumerate(table)
    }
    frozen = frozenset(spec.name for spec in table.of(TensorClass.FROZEN))
    context = Context(tape, weights.__getitem__, examples, frozen)
    outputs, masks = _run(context, network, inputs)
    parts = [examples.share if mask is None else _unpadded_share(graph, mask, present) for mask in masks]
    shares = _shares(graph, objectives, parts, importance)
    losses = [
        mean_loss(tape, objective, output, target, share)
        for objective, output, target, share in zip(objectives, outputs, targets, shares, strict=True)
    ]
    for penalty in network.penalties:
        losses += _penalise(tape, weights[penalty.tensor], penalty)
    returned = _returned(context, table, losses)
    return WrittenGraph(graph.finish(SIGNATURE, returned), graph.live_bytes())


def _returned(context: Context, table: TensorTable, losses: Sequence[Value]) -> dict[str, Tensor]:
    """What the graph gives: the loss, the gradients of what is trained, and the new moving statistics."""
    gradients = context.tape.gradients(losses)
    total = losses[0].tensor
    for other in losses[1:]:
        total = context.tape.graph.add(total, other.tensor)
    returned = {"loss": total}
    for row, spec in enumerate(table):
        if spec.kind in _TRAINED:
            weight = context.weight(spec.name)
            if weight not in gradients:
                raise TaskError(f"tensor {spec.name[:80]!r} changes no output; freeze it, or leave its layer out")
            returned[f"g{row}"] = gradients[weight]
        elif spec.name in context.moved:
            returned[f"s{row}"] = context.moved[spec.name]
    return returned


def _shares(
    graph: Graph, objectives: Sequence[Objective], shares: Sequence[Tensor], importance: Tensor
) -> Iterator[Tensor]:
    """The part that each example `[batch, 1]`, or each place of it `[batch, places]`, has in the loss of each output,
    which has its weight in it."""
    for number, (objective, share) in enumerate(zip(objectives, shares, strict=True)):
        column = graph.slice(importance, 1, number, 1)
        part = graph.multiply(share, column)
        yield part if objective.weight == 1.0 else graph.multiply(part, objective.weight)


def _unpadded_share(graph: Graph, mask: Tensor, present: Tensor) -> Tensor:
    """The share `[batch, places]` of each place in a mean over those whose `mask` `[batch, *places]` is 1, of the
    examples that are `present` `[batch, 1]`; 0 where there are none."""
    batch = mask.shape[0]
    counted = graph.multiply(graph.reshape(mask, (batch, mask.size // batch)), present)
    return graph.divide(counted, graph.maximum(graph.sum(counted, 0, 1), 1.0))


def _run(context: Context, network: Network, inputs: Sequence[Value]) -> tuple[list[Value], list[Tensor | None]]:
    """The network's outputs, and the mask of each."""
    values = [Pending(x) for x in inputs]
    for layer, call in network.steps():
        values.append(apply_layer(context, layer, [values[number] for number in call.inputs]))
    masks = network.output_masks or (None,) * len(network.outputs)
    return (
        [values[number].get() for number in network.outputs],
        [None if number is None else values[number].get().tensor for number in masks],
    )


def _penalise(tape: Tape, weight: Value, penalty: Penalty) -> list[Value]:
    losses = []
    if penalty.l1:
        losses.append(absolute_sum(tape, weight, penalty.l1))
    if penalty.l2:
        losses.append(square_sum(tape, weight, penalty.l2))
    return losses
