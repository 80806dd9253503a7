"""Rules of masks, of 1 and 0 for each step, and what is left out by them. No gradient goes through a mask."""

from __future__ import annotations

from fedprune.graph import operations as ops
from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.context import Context, Rules
from fedprune.graph.graph import Graph, Tensor
from fedprune.network.layers import IdMask, StepMask


def _id_mask(context: Context, _: IdMask, inputs: list[Value]) -> Value:
    (ids,), graph = inputs, context.tape.graph
    return context.tape.leaf(graph.minimum(graph.to_float(ids.tensor), 1.0), differentiable=False)


def _step_mask(context: Context, layer: StepMask, inputs: list[Value]) -> Value:
    (x,), graph = inputs, context.tape.graph
    differs = ops.is_positive(graph, ops.absolute(graph, graph.add(x.tensor, -layer.padding)))
    some = graph.reduce_max(differs, len(x.shape) - 1)
    return context.tape.leaf(graph.reshape(some, x.shape[:-1]), differentiable=False)


def masked_mean(tape: Tape, x: Value, mask: Tensor) -> Value:
    """The mean over the steps of `x` `[batch, steps, channels]` whose `mask` `[batch, steps]` is 1, which stay with
    size 1; 0 where there are none, as in what fills a batch up."""
    graph, column = tape.graph, _column(tape.graph, mask)
    count = graph.maximum(graph.sum(column, 1), 1.0)
    return ops.scale(tape, ops.sum_over(tape, ops.scale(tape, x, column), 1), graph.divide(1.0, count))


def without_masked(tape: Tape, x: Value, mask: Tensor) -> Value:
    """Zeros in the steps of `x` `[batch, steps, channels]` whose `mask` `[batch, steps]` is 0."""
    return ops.scale(tape, x, _column(tape.graph, mask))


def chosen(graph: Graph, mask: Tensor, x: Tensor, other: Tensor) -> Tensor:
    """`x` where `mask` is 1, and `other` where it is 0: exactly, unless one of them is no finite number."""
    return graph.add(graph.multiply(x, mask), graph.multiply(other, graph.subtract(1.0, mask)))


def _column(graph: Graph, mask: Tensor) -> Tensor:
    return graph.reshape(mask, (*mask.shape, 1))


RULES: Rules = {IdMask: _id_mask, StepMask: _step_mask}
