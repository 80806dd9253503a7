"""Sensitivities of weights, from what agents sent."""

from __future__ import annotations

import numpy as np

from aggregator.sensitivity import Sensitivity
from fedprune.codecs import Update
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array

_SHAPE, _EXAMPLES = (4, 5), (10, 30, 20)


def _drawn(*key: int) -> Array:
    return Keyed(1, *key).uniform(20, -1.0, 1.0).reshape(_SHAPE)


def _found(order: tuple[int, ...], *, is_signed: bool) -> Array:
    mask = {"kernel": _drawn(0) > -0.5}
    sensitivity = Sensitivity(mask, is_signed=is_signed)
    for agent in order:
        sensitivity.add(Update({"kernel": _drawn(1, agent)[mask["kernel"]]}, {}, mask), _EXAMPLES[agent])
    return sensitivity.scores({"kernel": _drawn(2)})["kernel"]


def test_a_sensitivity_is_the_mean_over_examples_of_what_agents_moved_times_the_weight() -> None:
    kept, weights, shares = _drawn(0) > -0.5, _drawn(2), np.array(_EXAMPLES) / sum(_EXAMPLES)
    moved = np.stack([_drawn(1, agent) for agent in range(3)])

    unsigned, signed = (_found((0, 1, 2), is_signed=is_signed) for is_signed in (False, True))

    expected = np.abs(weights) * np.tensordot(shares, np.abs(moved), 1)
    np.testing.assert_allclose(unsigned, np.where(kept, expected, 0.0), rtol=1e-5, atol=1e-7)
    expected = np.abs(weights * np.tensordot(shares, moved, 1))
    np.testing.assert_allclose(signed, np.where(kept, expected, 0.0), rtol=1e-5, atol=1e-7)
    assert (signed <= unsigned).all()


def test_the_order_of_updates_changes_no_bit() -> None:
    for is_signed in (False, True):
        first = _found((0, 1, 2), is_signed=is_signed)
        np.testing.assert_array_equal(_found((2, 0, 1), is_signed=is_signed), first)
