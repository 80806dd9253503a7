"""Subscriptions that a broker refuses: it is asked for them again, and for no others."""

from __future__ import annotations

from fedprune.wire.reconnecting import LONGEST_DELAY_S
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


def test_it_is_asked_for_again_until_it_is_granted_with_pauses_that_have_a_bound() -> None:
    subscriptions = Subscriptions()
    for attempt in range(100):
        subscriptions.asked(attempt, "a")
        subscriptions.refused(attempt, now=1000.0 * attempt)
        assert subscriptions.due(1000.0 * attempt + LONGEST_DELAY_S) == ("a",)
    subscriptions.asked(100, "a")
    subscriptions.granted(100)

    assert subscriptions.due(1e9) == ()


def test_nobody_asks_again_for_what_nobody_wants_any_more() -> None:
    subscriptions = Subscriptions()
    for identifier, topic_filter in enumerate(("refused", "unanswered")):
        subscriptions.asked(identifier, topic_filter)
    subscriptions.refused(0, now=0.0)
    subscriptions.given_up("refused")
    subscriptions.given_up("unanswered")
    subscriptions.refused(1, now=0.0)

    assert subscriptions.due(1e9) == ()
