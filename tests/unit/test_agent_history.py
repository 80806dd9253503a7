"""What an agent keeps of its earlier rounds is bounded, and its examples run."""

from __future__ import annotations

import doctest

from edge_agent import history
from edge_agent.history import MAX_DURATIONS, MAX_RUNS_REMEMBERED, Durations, RoundsDone


def test_the_examples_run() -> None:
    results = doctest.testmod(history)
    assert results.attempted > 0
    assert results.failed == 0


def test_of_many_runs_the_latest_are_remembered() -> None:
    done = RoundsDone()
    for number in range(100):
        done = done.with_round("first", number).with_round(f"run {number}", number)

    assert len(done.last) == MAX_RUNS_REMEMBERED
    assert (done.of("first"), done.of("run 99"), done.of("run 0")) == (99, 99, -1)


def test_a_round_that_is_done_stays_done_when_an_earlier_one_follows() -> None:
    assert RoundsDone().with_round("run", 5).with_round("run", 3).of("run") == 5


def test_only_the_last_trainings_of_one_task_are_remembered() -> None:
    durations = Durations()
    for seconds in range(10):
        durations = durations.with_training(b"task", float(seconds))

    assert durations.seconds == (7.0, 8.0, 9.0)[-MAX_DURATIONS:]
    assert durations.with_training(b"another", 1.0) == Durations(b"another", (1.0,))
    assert Durations().without_oldest() == Durations()
