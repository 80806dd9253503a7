"""Pauses before a broker is connected to again: short for one, spread for many, and never without a bound."""

from __future__ import annotations

import random
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.wire.reconnecting import FIRST_DELAY_S, LASTING_S, LONGEST_DELAY_S, SPREAD_S, Pauses

AGENTS = 10_000
MOST_BACK_S = 60.0


@pytest.fixture(autouse=True)
def _is_drawn_alike() -> None:
    random.seed(7)


def first(is_one_of_many: bool) -> float:
    """The first pause after a connection that stood."""
    pauses = Pauses(is_one_of_many=is_one_of_many)
    pauses.connection_ended(LASTING_S)
    return pauses.next()


@pytest.mark.parametrize(("is_one_of_many", "longest"), [(False, FIRST_DELAY_S), (True, SPREAD_S)])
def test_a_first_pause_is_anything_up_to_the_longest_one(is_one_of_many: bool, longest: float) -> None:
    drawn = sorted(first(is_one_of_many) for _ in range(AGENTS))
    assert max(abs(pause / longest - index / AGENTS) for index, pause in enumerate(drawn)) < 0.02


@given(st.booleans(), st.lists(st.none() | st.floats(0.0, 1e6), max_size=100))
def test_no_pause_is_longer_than_the_longest(is_one_of_many: bool, life: list[float | None]) -> None:
    """`life`: seconds that connections stood, and attempts that fail."""
    pauses = Pauses(is_one_of_many=is_one_of_many)
    for stood in life:
        if stood is not None:
            pauses.connection_ended(stood)
        assert 0.0 <= pauses.next() <= LONGEST_DELAY_S


def test_a_night_without_a_broker_ends_in_no_overflow() -> None:
    pauses = Pauses()
    drawn = [pauses.next() for _ in range(2000)]
    assert LONGEST_DELAY_S / 2 < max(drawn) <= LONGEST_DELAY_S


def test_a_connection_that_stood_makes_pauses_short_again_and_one_that_did_not_makes_them_longer() -> None:
    pauses = Pauses()
    for _ in range(10):
        pauses.connection_ended(LASTING_S - 1.0)
    assert pauses.short_lived == 10
    longest = 0.0
    for _ in range(100):
        pauses.connection_ended(LASTING_S - 1.0)
        longest = max(longest, pauses.next())
    assert longest > LONGEST_DELAY_S / 2

    for _ in range(100):
        pauses.connection_ended(LASTING_S)
        assert pauses.short_lived == 0
        assert pauses.next() <= FIRST_DELAY_S


def come_back(away_s: float) -> list[float]:
    """When each agent of a fleet is back whose broker ends at 0 and is there again after so many seconds."""
    moments = []
    for _ in range(AGENTS):
        pauses, moment = Pauses(is_one_of_many=True), 0.0
        pauses.connection_ended(LASTING_S)
        while (moment := moment + pauses.next()) < away_s:
            pass
        moments.append(moment)
    return sorted(moments)


@pytest.mark.parametrize("away_s", [0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0])
def test_a_fleet_comes_back_spread_and_soon(away_s: float) -> None:
    """However long its broker is away, in no second more than twice as many come as evenly over a first pause."""
    back = come_back(away_s)

    most = max(bisect_left(back, moment + 1.0) - index for index, moment in enumerate(back))
    assert most <= 2 * AGENTS / SPREAD_S
    assert back[-1] <= away_s + MOST_BACK_S


def test_without_a_spread_most_of_a_fleet_would_come_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedprune.wire.reconnecting.SPREAD_S", FIRST_DELAY_S)
    back = come_back(0.5)
    assert max(bisect_left(back, moment + 1.0) - index for index, moment in enumerate(back)) > AGENTS / 2
