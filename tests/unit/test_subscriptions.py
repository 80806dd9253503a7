"""Subscriptions that a broker refuses: it is asked for them again, and for no others."""

from __future__ import annotations

import pytest

from fedprune.wire.reconnecting import FIRST_DELAY_S, LONGEST_DELAY_S
from fedprune.wire.subscriptions import Subscriptions


def test_what_is_refused_is_asked_for_again_and_nothing_else() -> None:
    subscriptions = Subscriptions()
    for identifier, topic_filter in enumerate(("a", "b", "c")):
        subscriptions.asked(identifier, topic_filter)
    subscriptions.granted(0)
    subscriptions.refused(1, now=0.0)
    subscriptions.refused(2, now=0.0)

    assert subscriptions.due(LONGEST_DELAY_S) == ("b", "c")
    assert subscriptions.due(LONGEST_DELAY_S) == ()


def test_it_is_asked_for_again_until_it_is_granted_with_pauses_that_grow_to_a_bound_and_then_begin_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("random.uniform", lambda _, longest: longest)
    subscriptions = Subscriptions()
    for attempt in range(100):
        pause = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0**attempt)
        assert_is_due_after(pause, subscriptions, attempt, now=1000.0 * attempt)
    subscriptions.asked(100, "a")
    subscriptions.granted(100)

    assert subscriptions.due(1e9) == ()
    assert_is_due_after(FIRST_DELAY_S, subscriptions, 101, now=0.0)


def assert_is_due_after(pause: float, subscriptions: Subscriptions, attempt: int, now: float) -> None:
    subscriptions.asked(attempt, "a")
    subscriptions.refused(attempt, now)
    assert subscriptions.due(now + 0.99 * pause) == ()
    assert subscriptions.due(now + pause) == ("a",)


def test_nobody_asks_again_for_what_nobody_wants_any_more() -> None:
    subscriptions = Subscriptions()
    for identifier, topic_filter in enumerate(("refused", "unanswered")):
        subscriptions.asked(identifier, topic_filter)
    subscriptions.refused(0, now=0.0)
    subscriptions.given_up("refused")
    subscriptions.given_up("unanswered")
    subscriptions.refused(1, now=0.0)

    assert subscriptions.due(1e9) == ()
