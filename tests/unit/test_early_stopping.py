"""A run ends early once its models no longer become better, and stays ended."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.round_state import Phase
from aggregator.runner import AggregatorRunner
from tests.gateways import AGENTS, BUNDLE, TASK_PLAN, TOPICS, Site, begin, submit_update
from tests.simulation.stand_ins import STEPS_PER_ROUND

PLAN = replace(TASK_PLAN, rounds=12)
PRUNED_AFTER = 3
"""Rounds, by the schedule of the simulated task."""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "run")


def run(site: Site, accuracies: Sequence[float], patience: int | None) -> AggregatorRunner:
    """Rounds of which each makes a model that is so good, until the run ends."""
    left = iter(accuracies)
    runner = begin(site, plan=PLAN, accuracy=lambda: next(left), patience=patience)
    while len(site.records) < len(accuracies) and runner.state.phase is not Phase.DONE:
        for agent in AGENTS:
            submit_update(site, runner, agent)
    return runner


def test_the_schedule_ends_where_the_tests_think_it_does() -> None:
    assert BUNDLE.task.pruning.schedule.end_step == PRUNED_AFTER * STEPS_PER_ROUND


def test_a_run_ends_when_no_model_was_better_for_a_while(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    runner = run(site, [0.1, 0.2, 0.3, 0.5, 0.4, 0.5, 0.6], patience=2)

    assert (len(site.records), runner.is_done) == (6, True)
    assert site.link.on(TOPICS.round)[-1] == b"", "the manifest is cleared"
    assert any(
        "the run ends after 6 rounds: 2 models in a row were no better. The best one of all is that after 4 rounds"
        in line
        for line in caplog.messages
    )
    site.book.close()
    assert site.start(PLAN, patience=2).is_done
    site.book.close()
    assert not site.start(PLAN, patience=3).is_done, "with more patience it goes on"


def test_models_that_were_denser_do_not_count(site: Site) -> None:
    runner = run(site, [0.9, 0.9, 0.5, 0.5, 0.6, 0.5], patience=2)

    assert (len(site.records), runner.is_done) == (6, False)


def test_without_patience_all_rounds_are_done(site: Site) -> None:
    runner = run(site, [0.5] * 8, patience=None)

    assert (len(site.records), runner.is_done) == (8, False)
