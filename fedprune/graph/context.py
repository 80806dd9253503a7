"""The context in which layers are written down: weights, examples, noise, moving statistics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from fedprune.graph import operations as ops
from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.batch_normalization import Examples
from fedprune.graph.graph import Tensor


class Context:
    """`weight` is the tensor of a name; `moved` collects the new moving statistics.

    Without `examples` layers infer: they draw no noise, and use moving statistics as they are.
    """

    def __init__(
        self,
        tape: Tape,
        weight: Callable[[str], Value],
        examples: Examples | None = None,
        frozen: Collection[str] = frozenset(),
    ) -> None:
        self.tape = tape
        self.weight = weight
        self.examples = examples
        self.moved: dict[str, Tensor] = {}
        self._frozen = frozen
        self._noises = 0

    def is_frozen(self, tensor: str) -> bool:
        return tensor in self._frozen

    def move(self, tensor: str, towards: Tensor, momentum: float) -> None:
        """Let a moving statistic follow a batch's; once more if its layer is called once more."""
        graph = self.tape.graph
        moved = self.moved.get(tensor, self.weight(tensor).tensor)
        step = graph.multiply(graph.subtract(towards, moved), 1.0 - momentum)
        self.moved[tensor] = graph.add(moved, step)

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """A new input of numbers that are uniform over [0, 1)."""
        self._noises += 1
        return self.tape.graph.input(f"u{self._noises - 1}", shape)


def with_bias(context: Context, layer: Any, y: Value) -> Value:
    """`y` plus the bias of the layer, if it has one."""
    return ops.add(context.tape, y, context.weight(layer.bias)) if layer.bias else y


Rule = Callable[[Context, Any, list[Value]], Value]
"""What takes the context, a layer and its inputs, and returns its output."""
Rules = Mapping[type, Rule]
"""Rules by the kinds of layers."""
