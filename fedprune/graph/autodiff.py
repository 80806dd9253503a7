"""Reverse-mode differentiation of a `Graph`: values remember how a gradient passes through them.

Backward rules are written beside the forward ones in `operations` and `windows`. They may compute anything again
that another rule computed: the graph makes equal operations once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from fedprune.graph.graph import Graph, Tensor

Backward = Callable[[Tensor], Tensor]
"""From the gradient with respect to a value to that with respect to one of the values it was made of."""


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor and the values that it was made of, each with its way back. `differentiable`: a weight is upstream.

    `logits` is what a softmax or sigmoid was taken of: a loss starts from there.
    """

    tensor: Tensor
    parents: tuple[tuple[Value, Backward], ...] = ()
    differentiable: bool = False
    logits: Value | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape


class Tape:
    """Values in the order in which they were made."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._values: list[Value] = []

    def leaf(self, tensor: Tensor, *, differentiable: bool) -> Value:
        """A weight or an input."""
        return Value(tensor, differentiable=differentiable)

    def record(self, tensor: Tensor, *parents: tuple[Value, Backward], logits: Value | None = None) -> Value:
        """Record what an operation returned. Only parents that are differentiable will be asked for their gradients."""
        kept = tuple((parent, backward) for parent, backward in parents if parent.differentiable)
        value = Value(tensor, kept, bool(kept), logits)
        self._values.append(value)
        return value

    def gradients(self, losses: Iterable[Value]) -> dict[Value, Tensor]:
        """The gradient of the sum of `losses`, each of shape [1], with respect to each value that it depends on."""
        one = self.graph.constant(np.ones(1, np.float32))
        gradients = dict.fromkeys(losses, one)
        for value in reversed(self._values):
            if value not in gradients:
                continue
            for parent, backward in value.parents:
                contribution = backward(gradients[value])
                gradients[parent] = (
                    self.graph.add(gradients[parent], contribution) if parent in gradients else contribution
                )
        return gradients
