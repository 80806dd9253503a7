"""Powerpropagation in TensorFlow: see `edge_agent.trainers.powerpropagation`. Importing it imports TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedprune.keras.stack import tf
from fedprune.model.tensors import TensorClass
from fedprune.task.bundle import Task


class Theta:
    """The variables that an optimizer moves, `moved`, in the order of those that are trained: theta in place of each
    kernel that is pruned, and the others themselves. All are themselves where the task's alpha is 1."""

    def __init__(self, task: Task, trained: Mapping[str, Any]) -> None:
        self._alpha = task.training.powerpropagation
        kernels = {spec.name for spec in task.table.of(TensorClass.PRUNABLE)} if self._alpha > 1.0 else set()
        self._weights = list(trained.values())
        self.moved = [
            tf.Variable(variable, trainable=False, name=variable.name.partition(":")[0])
            if name in kernels
            else variable
            for name, variable in trained.items()
        ]
        self._pairs = [(w, theta) for w, theta in zip(self._weights, self.moved, strict=True) if w is not theta]

    def load(self) -> None:
        """Start from the weights as they are."""
        for weights, theta in self._pairs:
            theta.assign(tf.sign(weights) * tf.pow(tf.abs(weights), 1.0 / self._alpha))

    def move(self, optimizer: Any, gradients: Sequence[Any]) -> None:
        """An optimizer's step by the gradients of the weights, which TF-MOT has masked before it took them."""
        for weights, theta in self._pairs:
            theta.assign(theta * tf.cast(weights != 0.0, theta.dtype))
        chained = [
            gradient if weights is theta else gradient * self._alpha * self._power(theta)
            for gradient, weights, theta in zip(gradients, self._weights, self.moved, strict=True)
        ]
        optimizer.apply_gradients(zip(chained, self.moved, strict=True))
        for weights, theta in self._pairs:
            weights.assign(theta * self._power(theta))

    def _power(self, theta: Any) -> Any:
        return tf.pow(tf.abs(theta), self._alpha - 1.0)
