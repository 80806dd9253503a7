"""Rules of layers that join values number by number, and repeat axes of size 1."""

from __future__ import annotations

from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.context import Context
from fedprune.graph.graph import Graph, Tensor
from fedprune.graph.operations import is_positive
from fedprune.network.layers import Merge, Operation


def merge(context: Context, layer: Merge, inputs: list[Value]) -> Value:
    """Two by two, from the first on, as Keras does."""
    total, *others = inputs
    for other in others:
        if layer.operation is Operation.MULTIPLY:
            total = _multiply(context.tape, total, other)
        else:
            total = _choose(context.tape, total, other, larger=layer.operation is Operation.MAXIMUM)
    return total


def _multiply(tape: Tape, a: Value, b: Value) -> Value:
    graph = tape.graph
    return tape.record(
        graph.multiply(a.tensor, b.tensor),
        (a, lambda d: _fold(graph, graph.multiply(d, b.tensor), a.shape)),
        (b, lambda d: _fold(graph, graph.multiply(d, a.tensor), b.shape)),
    )


def _choose(tape: Tape, a: Value, b: Value, *, larger: bool) -> Value:
    """The larger or smaller of two numbers. Of equal ones `a` gets the gradient, as in TensorFlow."""
    graph = tape.graph
    y = graph.maximum(a.tensor, b.tensor) if larger else graph.minimum(a.tensor, b.tensor)
    rise = graph.subtract(b.tensor, a.tensor) if larger else graph.subtract(a.tensor, b.tensor)
    chosen = is_positive(graph, rise)
    return tape.record(
        y,
        (a, lambda d: _fold(graph, graph.multiply(d, graph.subtract(1.0, chosen)), a.shape)),
        (b, lambda d: _fold(graph, graph.multiply(d, chosen), b.shape)),
    )


def _fold(graph: Graph, d: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The gradient of what was repeated to `d`'s shape: the sum over its copies."""
    for axis, size in enumerate(shape):
        if size < d.shape[axis]:
            d = graph.sum(d, axis)
    return d
