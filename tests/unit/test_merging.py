"""Merging: exact whatever the order and grouping, FedAvg and the own-mask mean to float64, with room for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.merging import (
    FRACTION_BITS,
    MOST_EXAMPLES,
    STATISTICS_FRACTION_BITS,
    Aggregate,
    AggregateResult,
)
from fedprune.codecs import Update, check_update
from fedprune.codecs.update import LARGEST_VALUE, LARGEST_VARIANCE
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Mask, TensorClass, TensorSpec, TensorTable, Weights
from fedprune.pruning.masks import full_mask
from fedprune.pruning.policy import MaskPolicy
from tests.encoding import update_of, whole_delta

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
    return update_of({name: drawn[name] for name in DELTAS}, statistics, mask)


Folded = Sequence[tuple[Update, int]]


def empty(policy: MaskPolicy) -> Aggregate:
    return Aggregate(TABLE, BASE, policy.rules.known_mask(full_mask(TABLE)))


def aggregate_of(folded: Folded, policy: MaskPolicy = MaskPolicy.SHARED) -> Aggregate:
    aggregate = empty(policy)
    for update, examples in folded:
        aggregate.add(update, examples)
    return aggregate


def merged(folded: Folded, policy: MaskPolicy = MaskPolicy.SHARED) -> Weights:
    return aggregate_of(folded, policy).result(EXACT).weights


def assert_same_bits(found: AggregateResult, expected: AggregateResult) -> None:
    assert (found.updates, found.examples) == (expected.updates, expected.examples)
    for name, array in expected.weights.items():
        np.testing.assert_array_equal(found.weights[name], array, strict=True)
    for name, kept in expected.mask.items():
        np.testing.assert_array_equal(found.mask[name], kept, strict=True)


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
    workers = [empty(policy) for _ in range(3)]
    for update, examples in folded:
        data.draw(st.sampled_from(workers)).add(update, examples)
    first, second, third = data.draw(st.permutations(workers))
    second.merge(third)
    first.merge(second)

    assert_same_bits(first.result(EXACT), aggregate_of(folded, policy).result(EXACT))


@settings(deadline=None)
@given(ROUNDS, ROUNDS, POLICIES)
def test_a_merge_without_some_is_what_it_were_if_they_had_never_been_there(
    kept: list[tuple[int, int]], removed: list[tuple[int, int]], policy: MaskPolicy
) -> None:
    aggregate = aggregate_of([*fold(removed, policy), *fold(kept, policy)], policy)
    for update, examples in fold(removed, policy):
        aggregate.remove(update, examples)

    assert_same_bits(aggregate.result(EXACT), aggregate_of(fold(kept, policy), policy).result(EXACT))


def test_one_update_of_one_agent_moves_the_exact_weights_by_itself() -> None:
    update = make_update(1)

    found = merged([(update, 600)])

    for name in DELTAS:
        np.testing.assert_allclose(found[name], EXACT[name] + whole_delta(update, TABLE)[name], rtol=0, atol=2e-7)
    np.testing.assert_array_equal(found["seen"], EXACT["seen"])
    assert list(found) == [spec.name for spec in TABLE]


@settings(deadline=None)
@given(ROUNDS)
def test_fedavg_is_the_mean_weighted_by_examples(drawn: list[tuple[int, int]]) -> None:
    folded = fold(drawn, MaskPolicy.SHARED)
    total = sum(examples for _, examples in folded)

    found = merged(folded)

    for name in DELTAS:
        mean = (
            sum(examples * whole_delta(update, TABLE)[name].astype(np.float64) for update, examples in folded) / total
        )
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
            above += examples * kept * (BASE[name].astype(np.float64) + whole_delta(update, TABLE)[name])
            below += examples * kept
        expected = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        np.testing.assert_allclose(found[name], expected, rtol=2**-23, atol=2.0**-FRACTION_BITS)
        assert not found[name][below == 0].any()


def test_where_nobody_keeps_a_weight_it_is_zero() -> None:
    nobody: Mask = {name: np.zeros(BASE[name].shape, np.bool_) for name in KERNELS}
    update = make_update(1)
    pruned = update_of(whole_delta(update, TABLE), update.statistics, nobody)

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


def test_a_shared_mask_is_what_comes_of_a_merge_and_own_ones_are_united() -> None:
    first, second = make_update(1, MaskPolicy.OWN), make_update(2, MaskPolicy.OWN)

    united = aggregate_of([(first, 5), (second, 600)], MaskPolicy.OWN).result(EXACT).mask

    for name in KERNELS:
        np.testing.assert_array_equal(united[name], first.mask[name] | second.mask[name])
        assert aggregate_of([(make_update(1), 5)]).result(EXACT).mask[name].all()


# Room


def with_values(values: Mapping[str, float], policy: MaskPolicy = MaskPolicy.SHARED, seed: int = 1) -> Update:
    """An update whose tensors named hold one value each."""
    update = make_update(seed, policy)

    def filled(tensors: Weights) -> Weights:
        return {name: np.full_like(array, values.get(name, array)) for name, array in tensors.items()}

    return Update(filled(update.delta), filled(update.statistics), update.mask)


EXTREMES = {
    **dict.fromkeys(DELTAS, LARGEST_VALUE),
    **{mean: -LARGEST_VALUE for mean, _ in MOMENTS},
    **{variance: LARGEST_VARIANCE for _, variance in MOMENTS},
}
BIG_ROUNDS = st.lists(
    st.tuples(
        st.integers(1, 50),
        st.sampled_from([1, 10_000, MOST_EXAMPLES]),
        st.dictionaries(st.sampled_from(sorted(EXTREMES)), st.floats(0.0, 1.0)),
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None)
@given(BIG_ROUNDS, POLICIES, st.data())
def test_numbers_at_the_bounds_are_merged_to_the_same_bits_in_any_order_and_grouping(
    drawn: list[tuple[int, int, dict[str, float]]], policy: MaskPolicy, data: st.DataObject
) -> None:
    folded = [
        (with_values({name: factor * EXTREMES[name] for name, factor in share.items()}, policy, seed), examples)
        for seed, examples, share in drawn
    ]
    workers = [empty(policy) for _ in range(3)]
    for update, examples in data.draw(st.permutations(folded)):
        check_update(update, TABLE)
        data.draw(st.sampled_from(workers)).add(update, examples)
    first, second, third = data.draw(st.permutations(workers))
    third.merge(second)
    first.merge(third)

    found = first.result(EXACT)

    assert_same_bits(found, aggregate_of(folded, policy).result(EXACT))
    assert all(np.isfinite(array).all() for array in found.weights.values())


def test_ten_thousand_agents_pool_channels_of_any_scale_from_round_0() -> None:
    """The base says mean 0 and variance 1, as BatchNorm starts; sensors that nobody normalised say something else."""
    table = TensorTable(TABLE.of(TensorClass.STATISTICS)[:2])
    base = {"norm/moving_mean": np.zeros(6, np.float32), "norm/moving_variance": np.ones(6, np.float32)}
    scales = np.array([1e-3, 1.0, 1e2, 1e4, 1e6, 1e8], np.float32)
    update = Update({}, {"norm/moving_mean": scales, "norm/moving_variance": np.square(scales)}, {})
    check_update(update, table)
    aggregate = Aggregate(table, base, {})
    for _ in range(10_000):
        aggregate.add(update, 10_000)

    found = aggregate.result(base).weights

    np.testing.assert_allclose(found["norm/moving_mean"], scales, rtol=2**-23, atol=2.0**-STATISTICS_FRACTION_BITS)
    np.testing.assert_allclose(
        found["norm/moving_variance"], np.square(scales), rtol=2**-22, atol=2.0**-STATISTICS_FRACTION_BITS
    )


def test_a_base_beyond_all_bounds_takes_no_room() -> None:
    """Initial weights may be any numbers."""
    base = {spec.name: np.full(spec.shape, 3e38 if spec.dtype == "float32" else 0, spec.dtype) for spec in TABLE}
    aggregate = Aggregate(TABLE, base, None)

    aggregate.add(with_values(EXTREMES, MaskPolicy.OWN), MOST_EXAMPLES)

    for mean, _ in MOMENTS:
        np.testing.assert_array_equal(aggregate.result(base).weights[mean], np.float32(-LARGEST_VALUE))
