"""Keras' optimizers in numpy: they change weights in place, in float32, and keep the same variables.

They go through a tensor in pieces, so that temporary arrays are small, and stay in the processor's cache.

The formulas are tf_keras 2.21's: SGD with momentum (Nesterov's in the form of Sutskever et al. 2013, "On the
importance of initialization and momentum in deep learning") and Adam (Kingma and Ba 2015, arXiv 1412.6980, with the
bias corrections folded into the learning rate as in the remark before section 2.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Array
from fedprune.task.training import Adam, Sgd

_PIECE = 2**15
"""Numbers that are moved at once."""

_Shapes = Mapping[str, tuple[int, ...]]


class Optimizer(Protocol):
    """An optimizer of some named tensors."""

    def step(self, weights: Mapping[str, Array], gradients: Mapping[str, Array]) -> None:
        """Move `weights` in place. Gradients stay as they are: two tensors may have one and the same."""
        ...

    def variables(self) -> list[NDArray[np.generic]]:
        """The number of steps (int64), then each tensor's own variables, in Keras' order: no copies."""
        ...

    def load(self, variables: Sequence[NDArray[np.generic]]) -> None:
        """Go on from what `variables` of another optimizer returned; it is copied."""
        ...


def make_optimizer(settings: Sgd | Adam, shapes: _Shapes, learning_rate: float) -> Optimizer:
    """An optimizer of tensors with these names and shapes; `learning_rate` is the round's."""
    if isinstance(settings, Sgd):
        return _SgdOptimizer(settings, shapes, learning_rate)
    return _AdamOptimizer(settings, shapes, learning_rate)


class _State:
    """A step counter, and some arrays for each tensor that start as zeros."""

    def __init__(self, shapes: _Shapes, arrays: int) -> None:
        self.steps = 0
        self.of = {name: tuple(np.zeros(shape, np.float32) for _ in range(arrays)) for name, shape in shapes.items()}

    def variables(self) -> list[NDArray[np.generic]]:
        return [np.array(self.steps, np.int64), *self._arrays()]

    def load(self, variables: Sequence[NDArray[np.generic]]) -> None:
        steps, *arrays = variables
        self.steps = int(steps)
        for own, kept in zip(self._arrays(), arrays, strict=True):
            own[...] = kept

    def _arrays(self) -> Iterator[Array]:
        return (array for arrays in self.of.values() for array in arrays)


class _SgdOptimizer(_State):
    def __init__(self, settings: Sgd, shapes: _Shapes, learning_rate: float) -> None:
        super().__init__(shapes, arrays=1)
        self._rate = np.float32(learning_rate)
        self._momentum = np.float32(settings.momentum)
        self._nesterov = settings.nesterov

    def step(self, weights: Mapping[str, Array], gradients: Mapping[str, Array]) -> None:
        """v = momentum v - rate g; w += v, or with Nesterov's w += momentum v - rate g."""
        self.steps += 1
        for name in gradients:
            for weight, gradient, velocity in _pieces(weights[name], gradients[name], *self.of[name]):
                step = gradient * self._rate
                velocity *= self._momentum
                velocity -= step
                weight += velocity * self._momentum - step if self._nesterov else velocity


class _AdamOptimizer(_State):
    def __init__(self, settings: Adam, shapes: _Shapes, learning_rate: float) -> None:
        super().__init__(shapes, arrays=2)
        self._rate = np.float32(learning_rate)
        self._beta_1, self._beta_2 = np.float32(settings.beta_1), np.float32(settings.beta_2)
        self._epsilon = np.float32(settings.epsilon)

    def step(self, weights: Mapping[str, Array], gradients: Mapping[str, Array]) -> None:
        """m += (g - m)(1 - beta_1); v += (g^2 - v)(1 - beta_2); w -= rate' m / (sqrt v + epsilon)."""
        self.steps += 1
        one, steps = np.float32(1.0), np.float32(self.steps)
        rate = self._rate * np.sqrt(one - self._beta_2**steps) / (one - self._beta_1**steps)
        for name in gradients:
            for weight, gradient, mean, square in _pieces(weights[name], gradients[name], *self.of[name]):
                mean += (gradient - mean) * (one - self._beta_1)
                square += (np.square(gradient) - square) * (one - self._beta_2)
                weight -= mean * rate / (np.sqrt(square) + self._epsilon)


def _pieces(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Views of the same places of arrays of one shape, from the first numbers to the last."""
    if arrays[0].size <= _PIECE:
        yield arrays
        return
    flat = [array.reshape(-1) for array in arrays]  # views: weights and their variables are contiguous
    for start in range(0, flat[0].size, _PIECE):
        yield tuple(array[start : start + _PIECE] for array in flat)
