"""The arithmetic on latencies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.latency.measure import Settings, _block_sizes, _rotation, turns
from benchmarks.latency.results import MOST_MEDIANS, compare, compare_unpaired, medians, summarise

_latencies = st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=20)


def test_summary_of_known_latencies() -> None:
    latency = summarise([[4.0, 2.0], [3.0, 1.0, 5.0]])
    assert (latency.min, latency.p50, latency.p90, latency.p99) == pytest.approx((1.0, 3.0, 4.6, 4.96))
    assert (latency.mean, latency.std) == pytest.approx((3.0, 2.5**0.5))


def test_one_run_has_no_spread() -> None:
    assert summarise([[2.0]]).std == 0.0


@given(st.lists(_latencies, min_size=1, max_size=5))
def test_the_summary_is_ordered_and_within_what_was_measured(blocks: list[list[float]]) -> None:
    latency, everything = summarise(blocks), [value for block in blocks for value in block]
    assert min(everything) == latency.min <= latency.p50 <= latency.p90 <= latency.p99 <= max(everything)
    assert latency.min <= latency.mean * (1 + 1e-9)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=10), st.floats(0.1, 10))
def test_what_slows_both_models_alike_cancels_out(weather: list[float], true_ratio: float) -> None:
    reference = [[1.0 * factor, 1.1 * factor, 5.0 * factor] for factor in weather]
    other = [[true_ratio * value for value in block] for block in reference]
    ratio = compare(other, reference)
    np.testing.assert_allclose([ratio.low, ratio.median, ratio.high], true_ratio, rtol=1e-9)


def test_the_ratio_is_the_median_of_the_blocks_and_one_odd_block_does_not_move_it() -> None:
    ratio = compare([[2.0]] * 19 + [[500.0]], [[1.0]] * 20)
    assert (ratio.low, ratio.median, ratio.high) == (2.0, 2.0, 2.0)


@given(st.integers(0, 1000))
def test_the_interval_holds_the_true_ratio_of_noisy_blocks_and_narrows_with_more(seed: int) -> None:
    random = np.random.default_rng(seed)

    def blocks(count: int, latency: float) -> list[list[float]]:
        return (latency * random.uniform(0.9, 1.1, (count, 5))).tolist()

    few, many = (compare(blocks(count, 2.0), blocks(count, 1.0)) for count in (10, 400))
    assert few.low <= few.median <= few.high
    assert many.high - many.low < few.high - few.low + 0.02
    assert 1.95 < many.low < many.high < 2.05


def test_two_benchmarks_are_compared_block_by_block_of_each() -> None:
    same = compare_unpaired([1.0, 1.1, 0.9] * 10, [1.0, 1.1, 0.9] * 7)
    assert same.low <= 1.0 <= same.high
    slower = compare_unpaired([2.0, 2.2, 1.8] * 10, [1.0, 1.1, 0.9] * 7)
    assert 1.5 < slower.low <= slower.median == 2.0


@given(st.integers(1, 1000))
def test_a_report_keeps_few_medians_of_many_blocks(count: int) -> None:
    kept = medians([[float(number)] for number in range(count)])
    assert len(kept) == min(count, MOST_MEDIANS)
    assert list(kept) == sorted(kept)


@given(st.integers(1, 10_000))
def test_blocks_share_the_runs_out_evenly(runs: int) -> None:
    sizes = _block_sizes(runs)
    assert sum(sizes) == runs
    assert len(sizes) >= min(runs, 10)
    assert len(sizes) == turns(Settings(num_runs=runs)) - 2
    assert max(sizes) <= min(min(sizes) + 1, 100)


@given(st.integers(1, 8))
def test_everybody_is_first_equally_often(count: int) -> None:
    rotations = [_rotation(count, turn) for turn in range(count)]
    assert sorted(rotation[0] for rotation in rotations) == list(range(count))
    assert all(sorted(rotation) == list(range(count)) for rotation in rotations)
