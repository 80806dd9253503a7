"""Powerpropagation in numpy: kernels are trained as w = theta |theta|^(alpha - 1), which moves small weights less.

Schwarz et al. 2021 ("Powerpropagation: a sparsity inducing weight reparameterisation", arXiv 2110.00296, equations 1 to
3): by the chain rule dL/dtheta = dL/dw alpha |theta|^(alpha - 1). So weights that are near 0 stay there, and can be
pruned. Federated as in SparsyFed (Guastella et al. 2025, arXiv 2504.05153): what travels, is averaged and masked is w;
theta lives as long as a device's round, from sign(w) |w|^(1 / alpha) on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_agent.trainers.optimizers import Optimizer
from fedprune.model.tensors import Array


class Powerpropagation:
    """An `Optimizer` whose inner one moves theta instead of w, of the tensors `names`; `alpha` is above 1.

    What a mask has set to 0 in w is so in theta, before each step.
    """

    def __init__(self, inner: Optimizer, names: Collection[str], alpha: float) -> None:
        self._inner, self._names, self._alpha = inner, frozenset(names), alpha
        self._theta: dict[str, Array] = {}

    def step(self, weights: Mapping[str, Array], gradients: Mapping[str, Array]) -> None:
        if not self._theta:
            self._theta = {name: theta_of(weights[name], self._alpha) for name in gradients if name in self._names}
        moved, slopes = dict(gradients), dict(weights)
        for name, theta in self._theta.items():
            theta *= weights[name] != 0.0
            moved[name] = gradients[name] * slope_of(theta, self._alpha)
            slopes[name] = theta
        self._inner.step(slopes, moved)
        for name, theta in self._theta.items():
            weights[name][...] = weights_of(theta, self._alpha)

    def variables(self) -> list[NDArray[np.generic]]:
        return self._inner.variables()

    def load(self, variables: Sequence[NDArray[np.generic]]) -> None:
        self._inner.load(variables)


def theta_of(weights: Array, alpha: float) -> Array:
    """sign(w) |w|^(1 / alpha): float32, of the shape of `weights`.

    Example:
        >>> theta_of(np.float32([4, 0, -9]), 2.0).tolist()
        [2.0, 0.0, -3.0]
    """
    return np.copysign(np.power(np.abs(weights), np.float32(1.0 / alpha)), weights)


def weights_of(theta: Array, alpha: float) -> Array:
    """theta |theta|^(alpha - 1): float32, of the shape of `theta`.

    Example:
        >>> weights_of(np.float32([2, 0, -3]), 2.0).tolist()
        [4.0, 0.0, -9.0]
    """
    return theta * np.power(np.abs(theta), np.float32(alpha - 1.0))


def slope_of(theta: Array, alpha: float) -> Array:
    """dw/dtheta = alpha |theta|^(alpha - 1): float32, of the shape of `theta`."""
    return np.float32(alpha) * np.power(np.abs(theta), np.float32(alpha - 1.0))
