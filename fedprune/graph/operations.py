"""Differentiable operations: each computes in the tape's graph and records how gradients go back through it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from fedprune.graph.autodiff import Backward, Tape, Value
from fedprune.graph.graph import Graph, Tensor

_HUGE = float(np.finfo(np.float32).max)
_NEAR = 0.625
_TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
"""Up to `_NEAR`, tanh(x) is x + x^3 P(x^2) in float32; P's coefficients, highest power first (S. Moshier, Cephes
mathematical library, single precision, tanhf.c)."""
_LARGEST_EXPONENT = 80.0
"""Soon after it powers of e are no float32; a tanh is 1 or -1 long before."""
_ROWS = 256
"""Products over the rows of matrices are made of blocks of about so many rows."""
_TERMS = 32
"""The terms of a product are added up in parts of a multiple of so many."""


def is_positive(graph: Graph, x: Tensor) -> Tensor:
    """1 where `x` > 0, else 0. A comparison and a cast would leave XNNPACK. Exact but for denormal numbers."""
    return graph.minimum(graph.multiply(graph.relu(x), _HUGE), 1.0)


def logistic(graph: Graph, x: Tensor) -> Tensor:
    """1 / (1 + e^-x), within a few rounding errors of itself: the runtimes' own LOGISTIC is 8e-6 off on 32-bit Arm."""
    return graph.divide(1.0, graph.add(graph.exp(graph.multiply(x, -1.0)), 1.0))


def absolute(graph: Graph, x: Tensor) -> Tensor:
    return graph.maximum(x, graph.multiply(x, -1.0))


def softplus(graph: Graph, x: Tensor) -> Tensor:
    """log(1 + e^x). The logarithm makes up for what 1 + e^-|x| was rounded by."""
    small = graph.exp(graph.multiply(absolute(graph, x), -1.0))
    total = graph.add(small, 1.0)
    lost = graph.subtract(small, graph.add(total, -1.0))
    return graph.add(graph.relu(x), graph.add(graph.log(total), graph.divide(lost, total)))


def row(tape: Tape, value: float | Sequence[float], size: int) -> Value:
    """A row of constants: one number `size` times, or so many numbers."""
    return tape.leaf(tape.graph.constant(np.full(size, value, np.float32)), differentiable=False)


def fold(graph: Graph, d: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The gradient of what was repeated to `d`'s shape: the sum over its copies."""
    leading = len(d.shape) - len(shape)
    repeated = [axis for axis in range(len(d.shape)) if axis < leading or shape[axis - leading] < d.shape[axis]]
    return graph.reshape(graph.sum(d, *repeated), shape) if repeated else d


def matmul(tape: Tape, a: Value, b: Value, *, in_parts: bool = False) -> Value:
    """The product of a matrix `a` `[rows, k]`, which may be in blocks `[blocks, rows, k]`, with a matrix `b` `[k, n]`.

    Runtimes add up all terms of a product in one float32. Those over the rows, for `b`'s gradient, are added up block
    by block; those over k `in_parts` if wanted: that copies `a`, which takes too long for the patches of images.
    """
    graph = tape.graph
    product = _product_in_parts(graph, a.tensor, b.tensor) if in_parts else graph.matmul(a.tensor, b.tensor)

    return tape.record(
        product,
        (a, lambda d: graph.matmul(d, b.tensor, transpose_b=True)),
        (b, lambda d: product_over_rows(graph, a.tensor, d)),
    )


def product_over_rows(graph: Graph, a: Tensor, d: Tensor) -> Tensor:
    """The product of `a` `[*blocks, rows, k]` turned and `d` `[*blocks, rows, n]`, `[k, n]`, added up block by block.

    The narrower of the two is turned, which costs less, and if need be their product.
    """
    swapped = a.shape[-1] > d.shape[-1]
    first, second = (d, a) if swapped else (a, d)
    product = graph.matmul(first, second, transpose_a=True)
    if len(product.shape) > 2:
        product = graph.reshape(graph.sum(product, *range(len(product.shape) - 2)), product.shape[-2:])
    return graph.transpose(product, 1, 0) if swapped else product


def in_blocks(rows: int) -> tuple[int, ...]:
    """The rows of a matrix as (blocks, rows of each); as (rows,) if they are few, or no such blocks divide them."""
    sizes = (size for size in range(_ROWS // 2, 2 * _ROWS + 1) if rows % size == 0)
    size = min(sizes, key=lambda size: abs(size - _ROWS), default=rows)
    return (rows // size, size) if size < rows else (rows,)


def add(tape: Tape, a: Value, b: Value) -> Value:
    """The sum of two values; `b` may be smaller, and is then repeated."""
    graph = tape.graph
    return tape.record(graph.add(a.tensor, b.tensor), (a, lambda d: d), (b, lambda d: fold(graph, d, b.shape)))


def multiply(tape: Tape, a: Value, b: Value) -> Value:
    """The product, element by element; either may be smaller along an axis, and is then repeated."""
    graph = tape.graph
    return tape.record(
        graph.multiply(a.tensor, b.tensor),
        (a, lambda d: fold(graph, graph.multiply(d, b.tensor), a.shape)),
        (b, lambda d: fold(graph, graph.multiply(d, a.tensor), b.shape)),
    )


def scale(tape: Tape, x: Value, factor: Tensor | float) -> Value:
    """`x` times what does not depend on weights, and may be smaller."""
    graph = tape.graph
    return tape.record(graph.multiply(x.tensor, factor), (x, lambda d: graph.multiply(d, factor)))


def reshape(tape: Tape, x: Value, shape: Sequence[int]) -> Value:
    graph = tape.graph
    return tape.record(graph.reshape(x.tensor, shape), (x, lambda d: graph.reshape(d, x.shape)))


def pad(tape: Tape, x: Value, pads: Mapping[int, tuple[int, int]]) -> Value:
    """`x` with so many zeros before and after, along each of some axes."""
    graph = tape.graph

    def back(d: Tensor) -> Tensor:
        for axis, (before, _) in pads.items():
            d = graph.slice(d, axis, before, x.shape[axis])
        return d

    return tape.record(graph.pad(x.tensor, pads), (x, back))


def concatenate(tape: Tape, parts: Sequence[Value], axis: int) -> Value:
    graph = tape.graph
    ends = np.cumsum([part.shape[axis] for part in parts]).tolist()

    def parent(part: Value, end: int) -> tuple[Value, Backward]:
        size = part.shape[axis]
        return part, lambda d: graph.slice(d, axis, end - size, size)

    parents = [parent(part, end) for part, end in zip(parts, ends, strict=True)]
    return tape.record(graph.concatenate([part.tensor for part in parts], axis), *parents)


def sum_over(tape: Tape, x: Value, *axes: int) -> Value:
    """The sum over `axes`, which keep size 1."""
    graph = tape.graph
    return tape.record(graph.sum(x.tensor, *axes), (x, lambda d: graph.add(graph.multiply(x.tensor, 0.0), d)))


def max_over(tape: Tape, x: Value, *axes: int) -> Value:
    """The maximum over `axes`, which keep size 1. Equal maxima share the gradient, as in TensorFlow's reduce_max."""
    graph = tape.graph
    largest = graph.reduce_max(x.tensor, *axes)

    def back(d: Tensor) -> Tensor:
        chosen = graph.subtract(1.0, is_positive(graph, graph.subtract(largest, x.tensor)))
        return graph.multiply(chosen, graph.divide(d, graph.sum(chosen, *axes)))

    return tape.record(largest, (x, back))


def relu(tape: Tape, x: Value) -> Value:
    graph = tape.graph
    y = graph.relu(x.tensor)
    return tape.record(y, (x, lambda d: graph.multiply(d, graph.minimum(graph.multiply(y, _HUGE), 1.0))))


def relu6(tape: Tape, x: Value) -> Value:
    graph = tape.graph
    y = graph.relu6(x.tensor)

    def back(d: Tensor) -> Tensor:
        inside = graph.multiply(y, graph.subtract(6.0, y))
        return graph.multiply(d, graph.minimum(graph.multiply(inside, _HUGE), 1.0))

    return tape.record(y, (x, back))


def leaky_relu(tape: Tape, x: Value, alpha: float) -> Value:
    graph = tape.graph

    def back(d: Tensor) -> Tensor:
        slope = graph.add(graph.multiply(is_positive(graph, x.tensor), 1.0 - alpha), alpha)
        return graph.multiply(d, slope)

    return tape.record(graph.leaky_relu(x.tensor, alpha), (x, back))


def tanh(tape: Tape, x: Value) -> Value:
    """tanh(x) = (1 - e^-2x) / (1 + e^-2x), which cancels near 0; up to |x| = 0.625 a polynomial, which does not."""
    graph = tape.graph
    polynomial = _tanh_near_zero(graph, x.tensor)
    far = is_positive(graph, graph.add(graph.multiply(x.tensor, x.tensor), -(_NEAR**2)))
    power = graph.exp(graph.minimum(graph.multiply(x.tensor, -2.0), _LARGEST_EXPONENT))
    exponential = graph.divide(graph.subtract(1.0, power), graph.add(power, 1.0))
    y = graph.add(polynomial, graph.multiply(far, graph.subtract(exponential, polynomial)))
    return tape.record(y, (x, lambda d: graph.multiply(d, graph.subtract(1.0, graph.multiply(y, y)))))


def sigmoid(tape: Tape, x: Value) -> Value:
    graph = tape.graph
    y = logistic(graph, x.tensor)

    def back(d: Tensor) -> Tensor:
        return graph.multiply(d, graph.multiply(y, graph.subtract(1.0, y)))

    return tape.record(y, (x, back), logits=x)


def softmax(tape: Tape, x: Value) -> Value:
    """Over the last axis."""
    graph = tape.graph
    y, last = graph.softmax(x.tensor), len(x.shape) - 1

    def back(d: Tensor) -> Tensor:
        return graph.multiply(y, graph.subtract(d, graph.sum(graph.multiply(d, y), last)))

    return tape.record(y, (x, back), logits=x)


def square_sum(tape: Tape, x: Value, factor: float) -> Value:
    """`factor` times the sum of all squares, shape [1]."""
    graph = tape.graph
    total = _total(graph, graph.multiply(x.tensor, x.tensor))
    return tape.record(
        graph.multiply(total, factor), (x, lambda d: graph.multiply(graph.multiply(x.tensor, 2.0 * factor), d))
    )


def absolute_sum(tape: Tape, x: Value, factor: float) -> Value:
    """`factor` times the sum of all absolute values, shape [1]."""
    graph = tape.graph
    sign = graph.maximum(graph.minimum(graph.multiply(x.tensor, _HUGE), 1.0), -1.0)
    total = _total(graph, graph.multiply(x.tensor, sign))
    return tape.record(graph.multiply(total, factor), (x, lambda d: graph.multiply(graph.multiply(sign, factor), d)))


def repeat_channels(tape: Tape, x: Value, times: int) -> Value:
    """Each entry of the last axis `times` in a row."""
    if times == 1:
        return x
    graph, channels = tape.graph, x.shape[-1]
    column = reshape(tape, x, (x.tensor.size // channels, channels, 1))
    copies = graph.constant(np.ones((1, 1, times), np.float32))
    repeated = tape.record(graph.multiply(column.tensor, copies), (column, lambda d: graph.sum(d, 2)))
    return reshape(tape, repeated, (*x.shape[:-1], channels * times))


def _product_in_parts(graph: Graph, a: Tensor, b: Tensor) -> Tensor:
    """The product of `a` with the matrix `b`, its terms added up in parts: the larger the more terms there are."""
    terms = b.shape[0]
    size = _TERMS * math.ceil(math.sqrt(terms) / 8)

    def part(first: int) -> Tensor:
        count = min(size, terms - first)
        return graph.matmul(graph.slice(a, len(a.shape) - 1, first, count), graph.slice(b, 0, first, count))

    total = part(0)
    for first in range(size, terms, size):
        total = graph.add(total, part(first))
    return total


def _total(graph: Graph, x: Tensor) -> Tensor:
    return graph.reshape(graph.sum(x, *range(len(x.shape))), (1,))


def _tanh_near_zero(graph: Graph, x: Tensor) -> Tensor:
    """x + x^3 P(x^2) for |x| <= `_NEAR`, beyond that its value there."""
    near = graph.minimum(graph.maximum(x, -_NEAR), _NEAR)
    square = graph.multiply(near, near)
    polynomial = graph.multiply(square, _TANH[0])
    for coefficient in _TANH[1:]:
        polynomial = graph.multiply(graph.add(polynomial, coefficient), square)
    return graph.add(near, graph.multiply(near, polynomial))
