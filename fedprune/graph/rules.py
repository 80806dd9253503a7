"""Layer rules: each layer of a description, as it trains and as it infers, in differentiable operations.

The rules of layers that are alike, and the list of these, are in a module of their own. Layers over one axis are layers
over images of one row.

Functions of single numbers that keep their order (adding a bias, ReLU) can as well be applied after a maximum as before
it, on a quarter of the numbers, and give the same: so values are *pending*, until something needs them.
"""

from __future__ import annotations

from collections.abc import Callable

from fedprune.graph import (
    attention,
    convolutions,
    joins,
    masks,
    normalization,
    pointwise,
    poolings,
    products,
    sequence_rules,
    shapes,
)
from fedprune.graph import operations as ops
from fedprune.graph.activations import KEEP_ORDER
from fedprune.graph.autodiff import Value
from fedprune.graph.context import Context, Rule
from fedprune.network import layers as kinds
from fedprune.network.layers import Statistic


class Pending:
    """A value, and functions that are still to be applied to it, one after the other."""

    def __init__(self, value: Value, *functions: Callable[[Value], Value]) -> None:
        self._value = value
        self._functions = functions

    def then(self, *functions: Callable[[Value], Value]) -> Pending:
        """The same value with more `functions`, each of which keeps the order of numbers."""
        return Pending(self._value, *self._functions, *functions)

    def below(self, function: Callable[[Value], Value]) -> Pending:
        """`function` applied at once to the value, below what is pending."""
        return Pending(function(self._value), *self._functions)

    def get(self) -> Value:
        """The value with all functions applied."""
        while self._functions:
            first, *others = self._functions
            self._value, self._functions = first(self._value), tuple(others)
        return self._value


def apply_layer(context: Context, layer: kinds.AnyLayer, inputs: list[Pending]) -> Pending:
    """The output of a layer that was checked."""
    rule = _RULES[type(layer)]
    match layer:
        case kinds.Pooling(statistic=Statistic.MAX):
            return inputs[0].below(lambda x: rule(context, layer, [x]))
        case kinds.Activation(function=function) if function in KEEP_ORDER:
            return inputs[0].then(lambda x: rule(context, layer, [x]))
    y = Pending(rule(context, layer, [x.get() for x in inputs]))
    if isinstance(layer, kinds.Convolution) and (bias := layer.bias):
        return y.then(lambda x: ops.add(context.tape, x, context.weight(bias)))
    return y


_RULES: dict[type, Rule] = {
    kind: rule
    for rules in (
        attention.RULES,
        convolutions.RULES,
        joins.RULES,
        masks.RULES,
        normalization.RULES,
        pointwise.RULES,
        poolings.RULES,
        products.RULES,
        sequence_rules.RULES,
        shapes.RULES,
    )
    for kind, rule in rules.items()
}
