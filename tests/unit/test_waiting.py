"""What a link says while it waits for its broker."""

from __future__ import annotations

import pytest

from fedprune.wire.waiting import MOST_REASONS, ReasonsToWait

REFUSED, EXPIRED = "Connection refused", "its certificate has expired"


def test_reasons_that_take_turns_are_each_said_once_until_the_broker_lets_us_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reasons = ReasonsToWait()
    for why in (REFUSED, EXPIRED, REFUSED, EXPIRED):
        reasons.tell("one", why)
    assert (caplog.text.count(REFUSED), caplog.text.count(EXPIRED)) == (1, 1)
    reasons.tell("other", REFUSED)
    assert caplog.text.count(REFUSED) == 2, "it is another address"
    reasons.forget()
    reasons.tell("one", REFUSED)
    assert caplog.text.count(REFUSED) == 3


def test_reasons_without_end_are_not_remembered_without_end(caplog: pytest.LogCaptureFixture) -> None:
    reasons = ReasonsToWait()
    for number in range(MOST_REASONS + 1):
        reasons.tell("one", f"reason {number}.")
    reasons.tell("one", "reason 1.")
    reasons.tell("one", "reason 0.")
    assert caplog.text.count("reason 1.") == 1
    assert caplog.text.count("reason 0.") == 2
