"""Rules of layers that multiply values with each other."""

from __future__ import annotations

from fedprune.graph import operations as ops
from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.context import Context, Rules, with_bias
from fedprune.network.layers import Dense, Dot


def _dense(context: Context, layer: Dense, inputs: list[Value]) -> Value:
    (x,) = inputs
    rows = ops.reshape(context.tape, x, (*ops.in_blocks(x.tensor.size // x.shape[-1]), x.shape[-1]))
    y = ops.matmul(context.tape, rows, context.weight(layer.kernel), in_parts=True)
    return with_bias(context, layer, ops.reshape(context.tape, y, (*x.shape[:-1], layer.units)))


def _dot(context: Context, layer: Dot, inputs: list[Value]) -> Value:
    """A product of matrices for each example; rows are matrices of one row."""
    x, y = inputs
    rows_last, columns_last = (axis == len(value.shape) - 2 for axis, value in zip(layer.axes, inputs, strict=True))
    product = batch_matmul(
        context.tape,
        _as_matrices(context.tape, x),
        _as_matrices(context.tape, y),
        transpose_a=not rows_last,
        transpose_b=columns_last,
    )
    return ops.reshape(context.tape, product, (x.shape[0], *layer.output(x.shape[1:], y.shape[1:])))


def batch_matmul(tape: Tape, a: Value, b: Value, *, transpose_a: bool = False, transpose_b: bool = False) -> Value:
    """The product of two matrices for each entry of the leading axes, which are equal."""
    graph = tape.graph
    left, right = a.tensor, b.tensor
    return tape.record(
        graph.matmul(left, right, transpose_a=transpose_a, transpose_b=transpose_b),
        (
            a,
            lambda d: (
                graph.matmul(right, d, transpose_a=transpose_b, transpose_b=True)
                if transpose_a
                else graph.matmul(d, right, transpose_b=not transpose_b)
            ),
        ),
        (
            b,
            lambda d: (
                graph.matmul(d, left, transpose_a=True, transpose_b=transpose_a)
                if transpose_b
                else graph.matmul(left, d, transpose_a=not transpose_a)
            ),
        ),
    )


def _as_matrices(tape: Tape, x: Value) -> Value:
    return ops.reshape(tape, x, (x.shape[0], 1, x.shape[1])) if len(x.shape) == 2 else x


RULES: Rules = {Dense: _dense, Dot: _dot}
