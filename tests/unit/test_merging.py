"""Merging: exact whatever the order and grouping, FedAvg and the own-mask mean to float64, and never overflowing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.merging import FRACTION_BITS, Aggregate, AggregateResult
from fedprune.codecs import Update
from fedprune.errors import ProtocolError
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Mask, TensorClass, TensorSpec, TensorTable, Weights
from fedprune.pruning.masks import apply_mask, full_mask
from fedprune.task.bundle import MaskPolicy

TABLE = TensorTable(
    (
        TensorSpec("conv/kernel", (4, 6), "float32", TensorClass.PRUNABLE, "conv"),
        TensorSpec("norm/moving_mean", (6,), "float32", TensorClass.STATISTICS, "norm"),
        TensorSpec("norm/moving_variance", (6,), "float32", TensorClass.STATISTICS, "norm"),
        TensorSpec("dense/kernel", (6, 3), "float32", TensorClass.PRUNABLE, "dense"),
        TensorSpec("dense/bias", (3,), "float32", TensorClass.DENSE, "dense"),
        TensorSpec("other/moving_mean", (2,), "float32", TensorClass.STATISTICS, "other"),
        TensorSpec("other/moving_variance", (2,), "float32", TensorClass.STATISTICS, "other"),
        TensorSpec("seen", (), "int64", TensorClass.INTEGER, "seen"),
    )
)
DELTAS = ("conv/kernel", "dense/kernel", "dense/bias")
MOMENTS = (("norm/moving_mean", "norm/moving_variance"), ("other/moving_mean", "other/moving_variance"))
KERNELS = ("conv/kernel", "dense/kernel")


def draw(seed: int, limit: float) -> Weights:
    keyed = Keyed(seed, "merging")
    return {spec.name: keyed.uniform(spec.size, -limit, limit).reshape(spec.shape).astype(spec.dtype) for spec in TABLE}


BASE = draw(0, 1.0)
EXACT = {name: array + np.float32(1e-4) if array.dtype == np.float32 else array for name, array in BASE.items()}
"""The gateway's unrounded weights; agents were sent `BASE`."""


def make_update(seed: int, policy: MaskPolicy = MaskPolicy.SHARED, limit: float = 0.1) -> Update:
    drawn = draw(seed, limit)
    own = {name: draw(seed + 1000, 1.0)[name] > -0.2 for name in KERNELS}
    mask: Mask = own if policy is MaskPolicy.OWN else full_mask(TABLE)
    statistics = {mean: drawn[mean] for mean, _ in MOMENTS} | {var: np.abs(drawn[var]) for _, var in MOMENTS}
    return Update(apply_mask({name: drawn[name] for name in DELTAS}, mask), statistics, mask)


Folded = Sequence[tuple[Update, int]]


def aggregate_of(folded: Folded, policy: MaskPolicy = MaskPolicy.SHARED) -> Aggregate:
    aggregate = Aggregate(TABLE, BASE, policy)
    for update, examples in folded:
        aggregate.add(update, examples)
    return aggregate


def merged(folded: Folded, policy: MaskPolicy = MaskPolicy.SHARED) -> Weights:
    return aggregate_of(folded, policy).result(EXACT).weights


def assert_same_bits(found: AggregateResult, expected: AggregateResult) -> None:
    assert (found.updates, found.examples) == (expected.updates, expected.examples)
    for name, array in expected.weights.items():
        np.testing.assert_array_equal(found.weights[name], array, strict=True)


POLICIES = st.sampled_from(MaskPolicy)
ROUNDS = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 100_000)), min_size=1, max_size=8)


def fold(drawn: list[tuple[int, int]], policy: MaskPolicy) -> list[tuple[Update, int]]:
    return [(make_update(seed, policy), examples) for seed, examples in drawn]


@settings(deadline=None)
@given(ROUNDS, POLICIES, st.data())
def test_order_changes_no_bit(drawn: list[tuple[int, int]], policy: MaskPolicy, data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(drawn))

    assert_same_bits(
        aggregate_of(fold(shuffled, policy), policy).result(EXACT),
        aggregate_of(fold(drawn, policy), policy).result(EXACT),
    )


@settings(deadline=None)
@given(ROUNDS, POLICIES, st.data())
def test_partial_aggregates_merge_into_what_one_would_have_been(
    drawn: list[tuple[int, int]], policy: MaskPolicy, data: st.DataObject
) -> None:
    folded = fold(drawn, policy)
    workers = [Aggregate(TABLE, BASE, policy) for _ in range(3)]
    for update, examples in folded:
        data.draw(st.sampled_from(workers)).add(update, examples)
    first, second, third = data.draw(st.permutations(workers))
    second.merge(third)
    first.merge(second)

    assert_same_bits(first.result(EXACT), aggregate_of(folded, policy).result(EXACT))


def test_one_update_of_one_agent_moves_the_exact_weights_by_itself() -> None:
    update = make_update(1)

    found = merged([(update, 600)])

    for name in DELTAS:
        np.testing.assert_allclose(found[name], EXACT[name] + update.delta[name], rtol=0, atol=2e-7)
    np.testing.assert_array_equal(found["seen"], EXACT["seen"])
    assert list(found) == [spec.name for spec in TABLE]


@settings(deadline=None)
@given(ROUNDS)
def test_fedavg_is_the_mean_weighted_by_examples(drawn: list[tuple[int, int]]) -> None:
    folded = fold(drawn, MaskPolicy.SHARED)
    total = sum(examples for _, examples in folded)

    found = merged(folded)

    for name in DELTAS:
        mean = sum(examples * update.delta[name].astype(np.float64) for update, examples in folded) / total
        # Each addend is rounded to 2^-33 at most, the result to float32.
        np.testing.assert_allclose(found[name], EXACT[name] + mean, rtol=2**-24, atol=2.0**-FRACTION_BITS)


@settings(deadline=None)
@given(ROUNDS)
def test_own_masks_are_averaged_over_those_who_keep_a_weight(drawn: list[tuple[int, int]]) -> None:
    folded = fold(drawn, MaskPolicy.OWN)

    found = merged(folded, MaskPolicy.OWN)

    for name in KERNELS:
        above = np.zeros(BASE[name].shape)
        below = np.zeros(BASE[name].shape)
        for update, examples in folded:
            kept = update.mask[name]
            above += examples * kept * (BASE[name].astype(np.float64) + update.delta[name])
            below += examples * kept
        expected = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        np.testing.assert_allclose(found[name], expected, rtol=2**-23, atol=2.0**-FRACTION_BITS)
        assert not found[name][below == 0].any()


def test_where_nobody_keeps_a_weight_it_is_zero() -> None:
    nobody: Mask = {name: np.zeros(BASE[name].shape, np.bool_) for name in KERNELS}
    update = make_update(1)
    pruned = Update(apply_mask(update.delta, nobody), update.statistics, nobody)

    found = merged([(pruned, 10), (pruned, 20)], MaskPolicy.OWN)

    assert not any(found[name].any() for name in KERNELS)
    np.testing.assert_allclose(found["dense/bias"], EXACT["dense/bias"] + update.delta["dense/bias"], atol=2e-7)


def test_pooled_moments_are_those_of_all_examples_together() -> None:
    samples = [
        Keyed(seed, "samples").uniform(count, -2.0, 5.0).reshape(-1, 6) for seed, count in enumerate((60, 600, 6))
    ]
    folded = []
    for sample in samples:
        update = make_update(1)
        statistics = {
            **update.statistics,
            "norm/moving_mean": sample.mean(axis=0, dtype=np.float64).astype(np.float32),
            "norm/moving_variance": sample.var(axis=0, dtype=np.float64).astype(np.float32),
        }
        folded.append((Update(update.delta, statistics, update.mask), len(sample)))

    found = merged(folded)

    union = np.concatenate(samples).astype(np.float64)
    np.testing.assert_allclose(found["norm/moving_mean"], union.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["norm/moving_variance"], union.var(axis=0), rtol=1e-5)


def test_a_pooled_variance_is_never_negative() -> None:
    """Where all agree on a large mean and no variance, rounding must not go below zero."""
    update = make_update(1)
    statistics = {**update.statistics, "norm/moving_mean": np.full(6, 1000.1, np.float32)}
    statistics["norm/moving_variance"] = np.zeros(6, np.float32)
    folded = [(Update(update.delta, statistics, update.mask), examples) for examples in (1, 3, 7)]

    assert (merged(folded)["norm/moving_variance"] >= 0.0).all()


# Limits


def huge(value: float, tensor: str = "dense/bias") -> Update:
    update = make_update(1)
    if tensor in update.delta:
        return Update(
            {**update.delta, tensor: np.full_like(update.delta[tensor], value)}, update.statistics, update.mask
        )
    statistics = {**update.statistics, tensor: np.full_like(update.statistics[tensor], value)}
    return Update(update.delta, statistics, update.mask)


@pytest.mark.parametrize("tensor", ["dense/bias", "conv/kernel", "norm/moving_mean", "norm/moving_variance"])
@pytest.mark.parametrize("policy", MaskPolicy)
def test_what_would_overflow_is_refused_before_anything_changes(policy: MaskPolicy, tensor: str) -> None:
    aggregate = aggregate_of([(make_update(1, policy), 600)], policy)
    expected = aggregate_of([(make_update(1, policy), 600)], policy).result(EXACT)

    for update, examples in ((huge(3e38, tensor), 1), (huge(2.0**30, tensor), 2**31 - 1)):
        with pytest.raises(ProtocolError, match="too large to be summed"):
            aggregate.check(update, examples, most_updates=1)
        with pytest.raises(ProtocolError, match="too large to be summed"):
            aggregate.add(update, examples)

    assert_same_bits(aggregate.result(EXACT), expected)


def test_aggregates_that_would_overflow_together_are_not_merged() -> None:
    half = [(huge(2.0**29 * 1.5), 1)]
    one, other = aggregate_of(half), aggregate_of(half)
    expected = aggregate_of(half).result(EXACT)

    with pytest.raises(ProtocolError, match="overflow"):
        one.merge(other)
    assert_same_bits(one.result(EXACT), expected)


def test_what_was_merged_counts_towards_the_limit() -> None:
    quarter, half = aggregate_of([(huge(2.0**28), 1)]), huge(2.0**29 * 1.25)
    aggregate_of([]).add(half, 1)
    aggregate = aggregate_of([(huge(2.0**28), 1)])
    aggregate.merge(quarter)

    with pytest.raises(ProtocolError, match="too large"):
        aggregate.add(half, 1)


@settings(deadline=None)
@given(st.integers(1, 20), st.floats(1.0, 2.0**40), st.integers(1, 2**31 - 1), st.sampled_from([1.0, -1.0]))
def test_as_many_updates_as_were_checked_for_fit(most: int, value: float, examples: int, sign: float) -> None:
    aggregate, update = Aggregate(TABLE, BASE, MaskPolicy.SHARED), huge(sign * value)
    try:
        aggregate.check(update, examples, most)
    except ProtocolError:
        return
    for _ in range(most):
        aggregate.add(update, examples)
    found = aggregate.result(EXACT).weights["dense/bias"]
    np.testing.assert_allclose(found, EXACT["dense/bias"] + sign * np.float32(value), rtol=1e-6)


def test_a_negative_variance_is_refused() -> None:
    with pytest.raises(ProtocolError, match="norm/moving_variance: a variance is negative"):
        Aggregate(TABLE, BASE, MaskPolicy.SHARED).check(huge(-1e-9, "norm/moving_variance"), 1, 1)
