"""Exact sums against Python's integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.fixed_point import MOST_WEIGHT, SINGLE_LIMIT, SUM_LIMIT, FixedPointSum

BITS = 22
SIZE = 3
GOLDEN = "4a35273feaffdf3fed9ba56148347643415f4f1108af1544"

Addends = list[tuple[list[float], int]]
magnitudes = st.floats(-1e3, 1e3) | st.floats(-(2.0**40), 2.0**40) | st.floats(-(2.0**150), 2.0**150)
addends = st.lists(
    st.tuples(st.lists(magnitudes, min_size=SIZE, max_size=SIZE), st.integers(1, MOST_WEIGHT)), max_size=8
)


def sum_of(drawn: Addends) -> FixedPointSum:
    total = FixedPointSum((SIZE,), BITS)
    for values, weight in drawn:
        total.add(np.array(values), weight)
    return total


def exactly(drawn: Addends) -> list[int]:
    """The sums as integers, in units of 2^-BITS."""
    return [sum(weight * round(Fraction(values[place]) * 2**BITS) for values, weight in drawn) for place in range(SIZE)]


@settings(deadline=None)
@given(addends, st.integers(1, 2**55))
def test_a_sum_is_that_of_integers_to_the_precision_of_float64(drawn: Addends, count: int) -> None:
    found = sum_of(drawn).mean(count)

    for value, expected in zip(found.tolist(), exactly(drawn), strict=True):
        wanted = Fraction(expected, 2**BITS * count)
        assert abs(Fraction(value) - wanted) <= abs(wanted) * Fraction(1, 2**50)


@settings(deadline=None)
@given(addends, st.data())
def test_order_and_grouping_change_no_bit(drawn: Addends, data: st.DataObject) -> None:
    groups: list[Addends] = [[], [], []]
    for addend in data.draw(st.permutations(drawn)):
        data.draw(st.sampled_from(groups)).append(addend)
    first, second, third = map(sum_of, groups)
    second.merge(third)
    first.merge(second)

    assert first.mean(7).tobytes() == sum_of(drawn).mean(7).tobytes()


@settings(deadline=None)
@given(addends, addends, st.data())
def test_what_is_removed_leaves_the_bits_of_what_was_never_there(
    drawn: Addends, removed: Addends, data: st.DataObject
) -> None:
    """Also where the sum had to become digits for it."""
    total = sum_of(data.draw(st.permutations([*drawn, *removed])))
    for values, weight in data.draw(st.permutations(removed)):
        total.remove(np.array(values), weight)
    for values, weight in drawn:  # what comes later is added as if nothing had been there either
        total.add(np.array(values), weight)

    assert total.mean(7).tobytes() == sum_of([*drawn, *drawn]).mean(7).tobytes()


@given(st.lists(st.tuples(st.lists(st.integers(-(2**30), 2**30), min_size=SIZE, max_size=SIZE), st.integers(1, 2**28))))
def test_where_one_int64_is_enough_the_mean_is_rounded_as_one(drawn: list[tuple[list[int], int]]) -> None:
    """So the bits are those of releases before sums had digits."""
    total, single = FixedPointSum((SIZE,), 0), np.zeros(SIZE, np.int64)
    for values, weight in drawn[:8]:
        total.add(np.array(values, np.float64), weight)
        single += np.array(values, np.int64) * weight

    np.testing.assert_array_equal(total.mean(3), single.astype(np.float64) / 3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_sums_fit_up_to_the_limit_and_none_is_accepted_beyond(sign: float) -> None:
    total = FixedPointSum((2,), fraction_bits=0)
    half = np.array([sign * 2.0**186, sign])
    total.add(half, 2**30)
    expected = total.mean(2**30).tolist()

    assert expected == half.tolist()
    with pytest.raises(OverflowError, match="2\\^217"):
        total.add(half, 2**30)
    assert total.mean(2**30).tolist() == expected
    with pytest.raises(OverflowError):
        total.merge(total)


@pytest.mark.parametrize("weight", [0, -1, MOST_WEIGHT + 1])
def test_a_weight_out_of_its_range_is_our_own_bug(weight: int) -> None:
    with pytest.raises(ValueError, match="a weight is"):
        FixedPointSum((1,), BITS).add(np.ones(1), weight)


def test_a_sum_that_returns_to_small_numbers_keeps_them() -> None:
    total = FixedPointSum((1,), fraction_bits=32)
    for value in (2.0**90, 2.0**-32, -(2.0**90)):
        total.add(np.array([value]), MOST_WEIGHT)

    assert total.mean(MOST_WEIGHT).tolist() == [2.0**-32]


def test_golden_sums() -> None:
    """The bits that every machine must agree on."""
    drawn: Addends = [([1e-3, 1e8, -1e20], 10_000), ([2e-3, -3e8, 1e-3], 12_345), ([0.5, 1e17, 1e20], MOST_WEIGHT)]

    assert sum_of(drawn).mean(10_000 + 12_345 + MOST_WEIGHT).tobytes().hex() == GOLDEN


def test_the_limits_are_what_the_proof_counts_with() -> None:
    assert (MOST_WEIGHT, SINGLE_LIMIT, SUM_LIMIT) == (2**31 - 1, 2**62, 2**217)
