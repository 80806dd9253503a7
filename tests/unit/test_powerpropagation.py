"""Powerpropagation in numpy; that both trainers do the same is tested in test_litert_trainer."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.trainers.optimizers import make_optimizer
from edge_agent.trainers.powerpropagation import Powerpropagation, theta_of, weights_of
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array
from fedprune.task.training import Adam, Sgd

_SHAPES = {"kernel": (3, 4), "bias": (4,)}


def _tensors(seed: int) -> dict[str, Array]:
    keyed = Keyed(seed, "tensors")
    return {name: keyed.uniform(int(np.prod(shape)), -1.0, 1.0).reshape(shape) for name, shape in _SHAPES.items()}


@pytest.mark.parametrize("alpha", [1.25, 2.0, 4.0])
def test_weights_are_what_their_theta_says(alpha: float) -> None:
    weights = _tensors(1)["kernel"]
    np.testing.assert_allclose(weights_of(theta_of(weights, alpha), alpha), weights, rtol=1e-5)


@pytest.mark.parametrize("settings", [Sgd(0.1, 0.0), Sgd(0.1, 0.9), Adam(0.01)])
def test_kernels_move_in_theta_by_the_chain_rule_and_biases_as_they_are(settings: Sgd | Adam) -> None:
    alpha, weights, gradients = 2.0, _tensors(1), _tensors(2)
    theta = np.sign(weights["kernel"]) * np.sqrt(np.abs(weights["kernel"]))
    expected = {"kernel": theta.copy(), "bias": weights["bias"].copy()}
    moved = Powerpropagation(make_optimizer(settings, _SHAPES, settings.learning_rate), ["kernel"], alpha)
    plain = make_optimizer(settings, _SHAPES, settings.learning_rate)

    for _ in range(3):
        moved.step(weights, gradients)
        chained = gradients["kernel"] * 2.0 * np.abs(expected["kernel"])
        plain.step(expected, {"kernel": chained.astype(np.float32), "bias": gradients["bias"]})

    np.testing.assert_allclose(weights["kernel"], expected["kernel"] * np.abs(expected["kernel"]), atol=1e-5)
    np.testing.assert_array_equal(weights["bias"], expected["bias"])


def test_a_weight_that_a_mask_has_zeroed_starts_from_zero_again() -> None:
    weights, gradients = _tensors(1), _tensors(2)
    optimizer = Powerpropagation(make_optimizer(Sgd(0.1, 0.0), _SHAPES, 0.1), ["kernel"], 2.0)
    optimizer.step(weights, gradients)

    weights["kernel"][0] = 0.0
    optimizer.step(weights, gradients)

    assert not weights["kernel"][0].any()  # its slope is 0 there
    assert weights["kernel"][1:].all()
