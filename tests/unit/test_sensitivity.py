"""Sensitivities of weights, from what agents sent."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.sensitivity import Sensitivity
from fedprune.codecs import Update
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array
from fedprune.pruning.masks import Allocation, full_mask, mask_sparsity, score_mask
from fedprune.pruning.schedules import ConstantSparsity, PolynomialDecay
from fedprune.pruning.scores import Score, fuse_ranks
from fedprune.task.bundle import read_bundle, write_bundle
from tests.shrinking import HALVED, NO_WEIGHTS, STEPS, Shrinking, bundle_of

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


def test_ranks_are_fused_by_their_weights_over_all_tensors_together() -> None:
    mask = {"a": np.array([True, True, False]), "b": np.array([True, True])}
    first = {"a": np.float32([4, 1, 9]), "b": np.float32([2, 3])}
    second = {"a": np.float32([1, 1, 9]), "b": np.float32([1, 2])}

    fused = fuse_ranks([(first, 3.0), (second, 1.0)], mask)

    # Ranks by the first are 4, 1, 2, 3; by the second, of which three are equal, 3, 2, 1, 4.
    expected = {"a": [(3 * 4 + 3) / 16, (3 * 1 + 2) / 16, 0.0], "b": [(3 * 2 + 1) / 16, (3 * 3 + 4) / 16]}
    for name, values in expected.items():
        np.testing.assert_allclose(fused[name], values, rtol=1e-6)


def test_one_score_that_counts_for_all_orders_weights_as_it_does_alone(tmp_path: Path) -> None:
    fused = _federation(tmp_path / "fused", {Score.MAGNITUDE: 1e-6, Score.SENSITIVITY: 1e6}, _DUE, Allocation.GLOBAL)
    alone = _federation(tmp_path / "alone", Score.SENSITIVITY, _DUE, Allocation.GLOBAL)
    fused.run(2)
    alone.run(2)
    for name, kept in alone.model.checkpoint.mask.items():
        np.testing.assert_array_equal(fused.model.checkpoint.mask[name], kept)


_DUE = ConstantSparsity(target_sparsity=0.5, begin_step=2 * STEPS, frequency=STEPS)


def _federation(
    path: Path,
    score: Score | dict[Score, float],
    weights: ConstantSparsity,
    allocation: Allocation = Allocation.LAMP,
    units: ConstantSparsity | PolynomialDecay = NO_WEIGHTS,
) -> Shrinking:
    bundle = bundle_of(weights=weights, units=units)
    pruning = msgspec.structs.replace(bundle.task.pruning, score=score, allocation=allocation)
    task = msgspec.structs.replace(bundle.task, pruning=pruning)
    blob = write_bundle(task, network=bundle.network, weights=bundle.initial_weights(), graphs=bundle.graphs)
    return Shrinking(path, read_bundle(blob))


def test_the_gateway_prunes_what_the_agents_round_says_is_worth_least(tmp_path: Path) -> None:
    dense = _federation(tmp_path / "dense", Score.MAGNITUDE, NO_WEIGHTS)
    pruned = _federation(tmp_path / "pruned", Score.SIGNED_SENSITIVITY, _DUE)
    dense.run(1)
    before = dense.model.checkpoint
    dense.run(1)
    pruned.run(2)

    table, after = dense.bundle.task.table, dense.model.checkpoint.exact
    scores = {name: np.abs(before.weights[name] * (after[name] - before.exact[name])) for name in before.mask}
    expected = score_mask(scores, table, 0.5, Allocation.LAMP, full_mask(table))
    found = pruned.model.checkpoint.mask
    assert mask_sparsity(found) == pytest.approx(0.5, abs=0.01)
    alike = [float((found[name] == kept).mean()) for name, kept in expected.items()]
    assert min(alike) > 0.97  # sums are rounded elsewhere


def test_sensitivities_go_with_units_that_leave_the_network(tmp_path: Path) -> None:
    sparse = ConstantSparsity(target_sparsity=0.9, begin_step=2 * STEPS, frequency=STEPS)
    federation = _federation(tmp_path, Score.SENSITIVITY, sparse, units=HALVED)
    federation.run(4)  # every agent checks the digest of each model

    assert not federation.form.is_whole
    assert federation.form.sparsity(federation.model.checkpoint.weights) == pytest.approx(0.9, abs=0.02)
    magnitude = _federation(tmp_path / "magnitude", Score.MAGNITUDE, sparse, units=HALVED)
    magnitude.run(4)
    masks = federation.model.checkpoint.mask, magnitude.model.checkpoint.mask
    assert any(masks[0][n].shape != masks[1][n].shape or (masks[0][n] != masks[1][n]).any() for n in masks[0])
