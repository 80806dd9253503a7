"""Activation functions of single numbers, each with its slope: made of operators that every runtime computes exactly.

Where a difference would cancel (1 - sigmoid, e^x - 1, log(1 + small)), it is computed another way, so that large and
small numbers are as exact as others.
"""

from __future__ import annotations

from collections.abc import Callable

from fedprune.graph import operations as ops
from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.graph import Graph, Tensor
from fedprune.graph.operations import is_positive, logistic
from fedprune.network.layers import Activation, Function

_TAIL = (
    -2.5688967363e-2, 6.5330996111e-2, 2.8879431955e-2, -1.9639276997e-1, 7.8035534953e-2,
    5.8817299924e-2, 1.8029475997e-1, 2.4652512186e-1, 2.8210368847e-1, 2.8209475061e-1,
)  # fmt: skip
"""The normal distribution above x >= 0 is t e^(-x^2/2) P(t) / 2, t = 1 / (1 + x / sqrt(8)): P's coefficients, highest
power first. The form is that of Abramowitz and Stegun 1964, 7.1.26; these were fitted to 1e-7, by least squares at
Chebyshev's places."""
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
"""Klambauer et al. 2017, arXiv 1706.02515, equation 14."""
_GELU_SCALE, _GELU_CUBE = 0.7978845608028654, 0.044715
"""Hendrycks and Gimpel 2016, arXiv 1606.08415, section 2: tanh(sqrt(2 / pi) (x + 0.044715 x^3))."""
_SATURATED = 10.0
"""Beyond it that tanh is 1 in float32, and its cube could overflow."""


def activate(tape: Tape, layer: Activation, x: Value) -> Value:
    """The value that an activation layer makes of `x`."""
    if layer.function in _SLOPED:
        return _SLOPED[layer.function](tape, x, layer.slope)
    return _FUNCTIONS[layer.function](tape, x)


def _swish(tape: Tape, x: Value) -> Value:
    """x sigmoid(x). Ramachandran et al. 2017, arXiv 1710.05941."""
    graph = tape.graph
    gate, rest = logistic(graph, x.tensor), logistic(graph, graph.multiply(x.tensor, -1.0))
    y = graph.multiply(x.tensor, gate)
    return _record(tape, x, y, lambda: graph.add(gate, graph.multiply(y, rest)))


def _gelu(tape: Tape, x: Value) -> Value:
    """x times the normal distribution at x. Hendrycks and Gimpel 2016, arXiv 1606.08415."""
    graph = tape.graph
    bell = graph.exp(graph.multiply(graph.multiply(x.tensor, x.tensor), -0.5))
    t = graph.divide(1.0, graph.add(graph.multiply(ops.absolute(graph, x.tensor), 8.0**-0.5), 1.0))
    tail = graph.multiply(t, _TAIL[0])
    for coefficient in _TAIL[1:]:
        tail = graph.multiply(graph.add(tail, coefficient), t)
    tail = graph.multiply(graph.multiply(tail, bell), 0.5)
    positive = is_positive(graph, x.tensor)
    sign = graph.subtract(1.0, graph.multiply(positive, 2.0))
    below = graph.add(positive, graph.multiply(sign, tail))

    def slope() -> Tensor:
        density = graph.multiply(bell, _GELU_SCALE / 2.0)
        return graph.add(below, graph.multiply(x.tensor, density))

    return _record(tape, x, graph.multiply(x.tensor, below), slope)


def _gelu_tanh(tape: Tape, x: Value) -> Value:
    """GELU as tanh approximates it."""
    graph = tape.graph
    near = graph.minimum(graph.maximum(x.tensor, -_SATURATED), _SATURATED)
    square = graph.multiply(near, near)
    bend = graph.add(graph.multiply(square, _GELU_CUBE), 1.0)
    twice = graph.multiply(graph.multiply(near, bend), 2.0 * _GELU_SCALE)
    # 1/2 + tanh(z)/2 = sigmoid(2z), which does not cancel.
    below, above = logistic(graph, twice), logistic(graph, graph.multiply(twice, -1.0))
    y = graph.multiply(x.tensor, below)

    def slope() -> Tensor:
        steep = graph.add(graph.multiply(square, 6.0 * _GELU_SCALE * _GELU_CUBE), 2.0 * _GELU_SCALE)
        return graph.add(below, graph.multiply(graph.multiply(y, above), steep))

    return _record(tape, x, y, slope)


def _hard_sigmoid(tape: Tape, x: Value) -> Value:
    """relu6(x + 3) / 6."""
    graph = tape.graph
    y = _hard_gate(graph, x.tensor)
    return _record(tape, x, y, lambda: graph.multiply(_is_inside(graph, y), 1.0 / 6.0))


def _hard_swish(tape: Tape, x: Value) -> Value:
    """x relu6(x + 3) / 6. Howard et al. 2019, arXiv 1905.02244, section 5.2."""
    graph = tape.graph
    gate = _hard_gate(graph, x.tensor)

    def slope() -> Tensor:
        return graph.add(gate, graph.multiply(graph.multiply(x.tensor, 1.0 / 6.0), _is_inside(graph, gate)))

    return _record(tape, x, graph.multiply(x.tensor, gate), slope)


def _elu(tape: Tape, x: Value, alpha: float) -> Value:
    """x above 0, and `alpha` (e^x - 1) below. Clevert et al. 2015, arXiv 1511.07289."""
    return _exponential_below(tape, x, 1.0, alpha, zero_is_above=False)


def _selu(tape: Tape, x: Value) -> Value:
    return _exponential_below(tape, x, _SELU_SCALE, _SELU_SCALE * _SELU_ALPHA, zero_is_above=True)


def _exponential_below(tape: Tape, x: Value, scale: float, alpha: float, *, zero_is_above: bool) -> Value:
    """`scale` x above 0, and `alpha` (e^x - 1) below; e^x - 1 = 2 t / (1 - t), t = tanh(x / 2).

    At 0 there are two slopes; `zero_is_above` takes that above, where TensorFlow does.
    """
    graph = tape.graph
    low = graph.minimum(x.tensor, 0.0)
    t = ops.tanh(tape, tape.leaf(graph.multiply(low, 0.5), differentiable=False)).tensor
    below = graph.multiply(graph.divide(t, graph.subtract(1.0, t)), 2.0 * alpha)

    def slope() -> Tensor:
        falling = graph.multiply(graph.exp(low), alpha)
        above = is_positive(graph, x.tensor)
        if zero_is_above:
            above = graph.subtract(1.0, is_positive(graph, graph.multiply(x.tensor, -1.0)))
        return graph.add(falling, graph.multiply(above, graph.subtract(scale, falling)))

    return _record(tape, x, graph.add(graph.multiply(graph.relu(x.tensor), scale), below), slope)


def _exponential(tape: Tape, x: Value) -> Value:
    y = tape.graph.exp(x.tensor)
    return _record(tape, x, y, lambda: y)


def _softplus(tape: Tape, x: Value) -> Value:
    graph = tape.graph
    return _record(tape, x, ops.softplus(graph, x.tensor), lambda: logistic(graph, x.tensor))


def _softsign(tape: Tape, x: Value) -> Value:
    """x / (1 + |x|)."""
    graph = tape.graph
    part = graph.divide(1.0, graph.add(ops.absolute(graph, x.tensor), 1.0))
    return _record(tape, x, graph.multiply(x.tensor, part), lambda: graph.multiply(part, part))


def _record(tape: Tape, x: Value, y: Tensor, slope: Callable[[], Tensor]) -> Value:
    return tape.record(y, (x, lambda d: tape.graph.multiply(d, slope())))


def _hard_gate(graph: Graph, x: Tensor) -> Tensor:
    return graph.multiply(graph.minimum(graph.relu(graph.add(x, 3.0)), 6.0), 1.0 / 6.0)


def _is_inside(graph: Graph, y: Tensor) -> Tensor:
    """1 where 0 < `y` < 1, else 0."""
    return graph.multiply(is_positive(graph, y), is_positive(graph, graph.subtract(1.0, y)))


KEEP_ORDER = frozenset(
    {
        Function.ELU,
        Function.EXPONENTIAL,
        Function.HARD_SIGMOID,
        Function.LEAKY_RELU,
        Function.RELU,
        Function.RELU6,
        Function.SELU,
        Function.SIGMOID,
        Function.SOFTPLUS,
        Function.SOFTSIGN,
        Function.TANH,
    }
)
"""Functions of single numbers, the larger of which never becomes the smaller. Swish and its like fall, then rise."""

_FUNCTIONS: dict[Function, Callable[[Tape, Value], Value]] = {
    Function.EXPONENTIAL: _exponential,
    Function.GELU: _gelu,
    Function.GELU_TANH: _gelu_tanh,
    Function.HARD_SIGMOID: _hard_sigmoid,
    Function.HARD_SWISH: _hard_swish,
    Function.RELU: ops.relu,
    Function.RELU6: ops.relu6,
    Function.SELU: _selu,
    Function.SIGMOID: ops.sigmoid,
    Function.SOFTMAX: ops.softmax,
    Function.SOFTPLUS: _softplus,
    Function.SOFTSIGN: _softsign,
    Function.SWISH: _swish,
    Function.TANH: ops.tanh,
}
_SLOPED: dict[Function, Callable[[Tape, Value, float], Value]] = {
    Function.ELU: _elu,
    Function.LEAKY_RELU: ops.leaky_relu,
}
