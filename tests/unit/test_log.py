"""Lines that foreign input causes are limited, and none goes uncounted."""

from __future__ import annotations

import doctest
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.system import log
from fedprune.system.log import LimitedLog, LineLimit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_flood_is_a_few_lines_and_a_count(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log = LimitedLog(logging.getLogger("flood"), per_minute=3, clock=clock)
    with caplog.at_level(logging.INFO, "flood"):
        for number in range(315):
            log.log(logging.INFO, "ignored message %d", number)
        clock.now += 59.0
        log.log(logging.INFO, "still too early")
        clock.now += 1.0
        log.log(logging.WARNING, "ignored the last one")

    assert caplog.messages == [
        "ignored message 0",
        "ignored message 1",
        "ignored message 2",
        "... and 313 more of this kind",
        "ignored the last one",
    ]


def test_what_nobody_wants_to_see_uses_nothing_up(caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(logging.getLogger("quiet"), per_minute=1, clock=Clock())
    with caplog.at_level(logging.WARNING, "quiet"):
        for _ in range(5):
            log.log(logging.INFO, "a detail")
        log.log(logging.WARNING, "a warning")

    assert caplog.messages == ["a warning"]


@given(st.integers(1, 5), st.lists(st.floats(0.0, 50.0), max_size=200))
def test_every_line_is_said_or_counted_and_none_too_often(per_minute: int, pauses: list[float]) -> None:
    limit, now, waiting = LineLimit(per_minute), 0.0, 0
    said_at: list[float] = []
    for pause in pauses:
        now += pause
        withheld = limit.admit(now)
        if withheld is None:
            waiting += 1
        else:
            assert withheld == waiting
            waiting = 0
            said_at.append(now)
    for index in range(len(said_at) - 2 * per_minute):
        assert said_at[index + 2 * per_minute] - said_at[index] >= 60.0 - 1e-9


def test_the_example_is_true() -> None:
    results = doctest.testmod(log)
    assert results.attempted > 0
    assert results.failed == 0
