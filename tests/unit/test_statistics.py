"""Statistics of columns: what each device gives, and what all make together."""

from __future__ import annotations

import itertools
from contextlib import suppress

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.data import Dataset
from fedprune.data.description import MinMax, Standard
from fedprune.data.normalization import normalize, normalize_targets
from fedprune.data.statistics import (
    MIN_EXAMPLES,
    DeviceStatistics,
    Extremes,
    Moments,
    Wanted,
    check_statistics,
    columns_of,
    pack_statistics,
    pooled,
    statistics_of,
    unpack_statistics,
)
from fedprune.errors import DataError, ProtocolError

STANDARD = Standard(statistics="federated")
MIN_MAX = MinMax(statistics="federated")


def devices(*sizes: int, columns: int = 3) -> list[np.ndarray]:
    random = np.random.default_rng(7)
    scale, shift = np.geomspace(1e-3, 1e6, columns), np.linspace(-5, 1e5, columns)
    return [np.float32(random.normal(size=(size, columns)) * scale + shift) for size in sizes]


def test_pooled_moments_are_those_of_all_examples_together() -> None:
    wanted, parts = Wanted(STANDARD, 3, 1), devices(25, 400, 31)

    found = pooled([(statistics_of(part, wanted), 1.0) for part in parts], wanted)

    whole = np.concatenate(parts).astype(np.float64)
    assert isinstance(found, Standard)
    np.testing.assert_allclose(found.mean, whole.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.std, whole.std(axis=0), rtol=1e-9)


def test_pooled_extremes_are_those_of_all_examples_together() -> None:
    wanted, parts = Wanted(MIN_MAX, 3, 1), devices(25, 400, 31)

    found = pooled([(statistics_of(part, wanted), 1.0) for part in parts], wanted)

    whole = np.concatenate(parts).astype(np.float64)
    assert found == MinMax(tuple(whole.min(axis=0).tolist()), tuple(whole.max(axis=0).tolist()))


def test_the_order_of_devices_changes_no_bit() -> None:
    wanted = Wanted(STANDARD, 3, 1)
    given = [(statistics_of(part, wanted), 1.0 / (1 + place)) for place, part in enumerate(devices(25, 400, 31, 77))]

    found = {msgspec.json.encode(pooled(order, wanted)) for order in itertools.permutations(given)}

    assert len(found) == 1


def test_channels_have_statistics_over_all_places_and_examples() -> None:
    x = np.float32(np.random.default_rng(1).normal(size=(30, 4, 5, 2)))
    assert columns_of(x.shape[1:]) == 2

    moments = statistics_of(x, Wanted(STANDARD, 2, 20))

    assert isinstance(moments, Moments)
    assert moments.counts == (600, 600)
    np.testing.assert_allclose(moments.means, x.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-6)


def test_a_column_too_wide_has_one_statistic_for_all() -> None:
    assert columns_of((100_000,)) == 1
    assert columns_of(()) == 1


@pytest.mark.parametrize("value", [0.0, 7.0, 1e6 / 3, -1e20])
def test_a_constant_column_is_divided_by_1(value: float) -> None:
    parts = [np.full((count, 1), value, np.float32) for count in (20, 333)]
    wanted = Wanted(STANDARD, 1, 1)

    found = pooled([(statistics_of(part, wanted), 1.0) for part in parts], wanted)

    assert isinstance(found, Standard)
    assert found.std == (1.0,)
    dataset = Dataset(parts[0].copy(), np.zeros(20, np.int64))
    normalize(dataset, found)
    np.testing.assert_allclose(dataset.x, 0.0, atol=abs(value) * 1e-6)


@pytest.mark.parametrize("value", [0.0, 7.0, -1e20])
def test_a_constant_column_keeps_its_minimum_below_its_maximum(value: float) -> None:
    wanted = Wanted(MIN_MAX, 1, 1)

    found = pooled([(statistics_of(np.full((20, 1), value, np.float32), wanted), 1.0)], wanted)

    assert isinstance(found, MinMax)
    assert msgspec.json.decode(msgspec.json.encode(found), type=MinMax) == found
    assert found.minimum == (np.float32(value),)


def test_missing_values_do_not_count() -> None:
    x = np.float32([[1, np.nan], [3, np.nan], [np.nan, 8]])

    assert statistics_of(x, Wanted(STANDARD, 2, 1)) == Moments((2, 1), (2.0, 8.0), (2.0, 0.0))
    assert statistics_of(x, Wanted(MIN_MAX, 2, 1)) == Extremes((2, 1), (1.0, 8.0), (3.0, 8.0))


def test_a_column_that_nobody_has_values_of_is_left_as_it_is() -> None:
    empty = np.full((20, 1), np.nan, np.float32)

    assert pooled([(statistics_of(empty, Wanted(STANDARD, 1, 1)), 1.0)], Wanted(STANDARD, 1, 1)) == Standard(
        (0.0,), (1.0,)
    )
    assert pooled([(statistics_of(empty, Wanted(MIN_MAX, 1, 1)), 1.0)], Wanted(MIN_MAX, 1, 1)) == MinMax((0.0,), (1.0,))


def test_a_capped_device_counts_as_so_many_examples() -> None:
    wanted = Wanted(STANDARD, 1, 1)
    ones, nines = Moments((100,), (1.0,), (0.0,)), Moments((900,), (9.0,), (0.0,))

    found = pooled([(ones, 1.0), (nines, 1 / 9)], wanted)

    assert isinstance(found, Standard)
    assert found.mean == pytest.approx((5.0,))
    assert found.std == pytest.approx((4.0,))


def test_numbers_too_large_for_statistics_are_told_to_who_has_them() -> None:
    with pytest.raises(DataError, match="a number is beyond 1e\\+30"):
        statistics_of(np.float32([[3e38]]), Wanted(STANDARD, 1, 1))


def test_statistics_travel_unchanged() -> None:
    statistics = DeviceStatistics(Moments((30,), (0.1,), (7.0,)), Extremes((30,), (-1.0,), (5.5,)))

    assert unpack_statistics(pack_statistics(statistics)) == statistics
    assert unpack_statistics(pack_statistics(DeviceStatistics())).is_empty


@pytest.mark.parametrize(
    "moments",
    [
        Moments((1,), (float("nan"),), (1.0,)),
        Moments((1,), (float("inf"),), (1.0,)),
        Moments((1,), (0.0,), (-1.0,)),
        Moments((1,), (0.0,), (float("nan"),)),
        Moments((-1,), (0.0,), (1.0,)),
        Moments((2**62,), (0.0,), (1.0,)),
    ],
)
def test_hostile_numbers_are_refused(moments: Moments) -> None:
    with pytest.raises(ProtocolError, match="its statistics: "):
        unpack_statistics(pack_statistics(DeviceStatistics(moments)))


@given(st.binary(max_size=200))
def test_any_bytes_are_statistics_or_refused(blob: bytes) -> None:
    with suppress(ProtocolError):
        statistics = unpack_statistics(blob)
        assert unpack_statistics(pack_statistics(statistics)) == statistics


@pytest.mark.parametrize(
    ("statistics", "says"),
    [
        (None, "gives no statistics of inputs"),
        (Extremes((20, 20), (0.0, 0.0), (1.0, 1.0)), "of another kind than the task's"),
        (Moments((20,), (0.0,), (1.0,)), "of other columns than the task's 2"),
        (Moments((20, 20), (0.0,), (1.0, 1.0)), "of other columns than the task's 2"),
        (Moments((20, 21), (0.0, 0.0), (1.0, 1.0)), "more values than its 20 examples have"),
    ],
)
def test_statistics_that_the_task_does_not_want_are_refused(statistics: Moments | Extremes | None, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        check_statistics(statistics, Wanted(STANDARD, 2, 1), MIN_EXAMPLES, "inputs")


def test_a_minimum_above_the_maximum_is_refused() -> None:
    with pytest.raises(ProtocolError, match="is above the maximum"):
        check_statistics(Extremes((20,), (2.0,), (1.0,)), Wanted(MIN_MAX, 1, 1), 20, "targets")


def test_statistics_that_nobody_asked_for_are_refused() -> None:
    with pytest.raises(ProtocolError, match="it gives statistics of targets"):
        check_statistics(Moments((20,), (0.0,), (1.0,)), None, 20, "targets")


def test_targets_are_normalised_and_inputs_stay() -> None:
    data = Dataset(np.ones((2, 3), np.float32), np.float32([[10], [30]]), weight=np.float32([1, 2]))

    found = normalize_targets(data, Standard((20.0,), (10.0,)))

    assert found.y.tolist() == [[-1.0], [1.0]]
    assert found.weight is data.weight
    assert data.y.tolist() == [[10.0], [30.0]]


def test_nothing_is_normalised_by_statistics_that_are_not_gathered_yet() -> None:
    with pytest.raises(DataError, match='statistics = "federated" are not gathered yet; a gateway does that'):
        normalize(Dataset(np.ones((2, 3), np.float32), np.zeros(2, np.int64), "pi-1.csv"), STANDARD)
