"""The context in which layers are written down for training: weights, examples, noise, moving statistics."""

from __future__ import annotations

from collections.abc import Mapping

from fedprune.graph.autodiff import Tape, Value
from fedprune.graph.graph import Tensor
from fedprune.graph.normalization import Examples
from fedprune.model.tensors import TensorClass, TensorTable


class Context:
    """`weights` are all tensors of the table, by name; `moved` collects the new moving statistics."""

    def __init__(self, tape: Tape, table: TensorTable, weights: Mapping[str, Value], examples: Examples) -> None:
        self.tape = tape
        self.examples = examples
        self.moved: dict[str, Tensor] = {}
        self._weights = weights
        self._frozen = frozenset(spec.name for spec in table.of(TensorClass.FROZEN))
        self._noises = 0

    def weight(self, tensor: str) -> Value:
        return self._weights[tensor]

    def is_frozen(self, tensor: str) -> bool:
        return tensor in self._frozen

    def move(self, tensor: str, towards: Tensor, momentum: float) -> None:
        """Let a moving statistic follow a batch's; once more if its layer is called once more."""
        graph = self.tape.graph
        moved = self.moved.get(tensor, self._weights[tensor].tensor)
        step = graph.multiply(graph.subtract(towards, moved), 1.0 - momentum)
        self.moved[tensor] = graph.add(moved, step)

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """A new input of numbers that are uniform over [0, 1)."""
        self._noises += 1
        return self.tape.graph.input(f"u{self._noises - 1}", shape)
