"""Rules of layers that join values number by number, and repeat axes of size 1."""

from __future__ import annotations

from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.context import Context, Rules
from fedprune.graph.operations import add, fold, is_positive, multiply
from fedprune.network.layers import Add, Merge, Operation


def _add(context: Context, _: Add, inputs: list[Value]) -> Value:
    total, *others = inputs
    for other in others:
        total = add(context.tape, total, other)
    return total


def _merge(context: Context, layer: Merge, inputs: list[Value]) -> Value:
    """Two by two, from the first on, as Keras does."""
    total, *others = inputs
    for other in others:
        if layer.operation is Operation.MULTIPLY:
            total = multiply(context.tape, total, other)
        else:
            total = _choose(context.tape, total, other, larger=layer.operation is Operation.MAXIMUM)
    return total


def _choose(tape: Tape, a: Value, b: Value, *, larger: bool) -> Value:
    """The larger or smaller of two numbers. Of equal ones `a` gets the gradient, as in TensorFlow."""
    graph = tape.graph
    y = graph.maximum(a.tensor, b.tensor) if larger else graph.minimum(a.tensor, b.tensor)
    rise = graph.subtract(b.tensor, a.tensor) if larger else graph.subtract(a.tensor, b.tensor)
    chosen = is_positive(graph, rise)
    return tape.record(
        y,
        (a, lambda d: fold(graph, graph.multiply(d, graph.subtract(1.0, chosen)), a.shape)),
        (b, lambda d: fold(graph, graph.multiply(d, chosen), b.shape)),
    )


RULES: Rules = {Add: _add, Merge: _merge}
