"""A round with an update that no honest training makes: what is merged, what is said, and that nobody else loses."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.command import round_line
from aggregator.runner import AggregatorRunner
from fedprune.model.tensors import weights_digest
from fedprune.task.checkpoints import load_checkpoint
from fedprune.task.evaluation import Evaluation
from fedprune.wire.messages import LeftOut
from tests.gateways import TASK_PLAN, Site, begin, submit_update
from tests.simulation.stand_ins import evaluate

FLEET = ("pi-0", "pi-1", "pi-2", "pi-3")
PLAN = replace(TASK_PLAN, rounds=5, cohort=4, quorum=4)
TRIO = replace(PLAN, cohort=3, quorum=3)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "run")


def round_with(
    site: Site, runner: AggregatorRunner, factors: dict[str, float], agents: tuple[str, ...] = FLEET
) -> None:
    """All agents train and submit, some of them with a delta so many times as large."""
    for agent in agents:
        submit_update(site, runner, agent, factors.get(agent, 1.0))


def digest(site: Site, version: int) -> str:
    return weights_digest(load_checkpoint(site.checkpoints, version).exact)


@pytest.mark.parametrize("factor", [1e4, 100.0, 31.0])
def test_a_merge_without_an_outlier_is_what_it_were_if_it_had_never_been_there(
    site: Site, tmp_path: Path, factor: float
) -> None:
    others = Site(tmp_path / "others")
    round_with(others, begin(others, FLEET[:3], plan=TRIO), {}, FLEET[:3])

    round_with(site, begin(site, FLEET, plan=PLAN), {"pi-3": factor})

    (record,) = site.records
    assert (record.agents, record.left_out, record.outliers, record.kept) == (4, 1, ("pi-3",), True)
    assert digest(site, 1) == digest(others, 1)


@pytest.mark.parametrize("order", [*itertools.permutations(FLEET, 4)])
def test_whoever_comes_first_the_outlier_is_left_out(site: Site, order: tuple[str, ...]) -> None:
    round_with(site, begin(site, FLEET, plan=PLAN), {"pi-1": 1e4}, order)

    assert site.records[0].outliers == ("pi-1",)


def test_the_outlier_is_named_in_the_log_the_line_and_the_json(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    round_with(site, begin(site, FLEET, plan=PLAN), {"pi-1": 1e4})

    (record,) = site.records
    assert any(
        message.startswith("round 1: the update of pi-1 is left out: the norm of its delta is 1.")
        for message in caplog.messages
    )
    assert round_line(record, 5).endswith("; left out pi-1")
    assert json.loads(msgspec.json.encode(record))["outliers"] == ["pi-1"]


def test_it_is_told_to_the_agent_with_its_next_work_also_after_a_restart(site: Site) -> None:
    round_with(site, begin(site, FLEET, plan=PLAN), {"pi-1": 1e4})
    told = site.assignment_of("pi-1").left_out
    assert told is not None
    assert told.round == 0
    assert site.assignment_of("pi-0").left_out is None

    site.book.close()
    begin(site, ("pi-1",), plan=PLAN)
    assert site.assignment_of("pi-1").left_out == LeftOut(round=0, why=told.why)


def test_a_restart_before_the_merge_judges_as_if_there_had_been_none(site: Site, tmp_path: Path) -> None:
    round_with(site, begin(site, FLEET, plan=PLAN), {"pi-3": 1e4})
    other = Site(tmp_path / "other")
    round_with(other, begin(other, FLEET, plan=PLAN), {"pi-3": 1e4}, FLEET[2:])
    other.book.close()
    round_with(other, begin(other, FLEET[:2], plan=PLAN), {}, FLEET[:2])

    assert other.records[0].outliers == ("pi-3",)
    assert digest(other, 1) == digest(site, 1)


def test_of_two_agents_the_second_round_tells_the_outlier_by_the_first(site: Site) -> None:
    runner = begin(site, FLEET[:2], plan=replace(PLAN, cohort=2, quorum=2), evaluate=evaluate)
    round_with(site, runner, {}, FLEET[:2])
    round_with(site, runner, {"pi-1": 1e4}, FLEET[:2])

    assert [record.outliers for record in site.records] == [(), ("pi-1",)]


def test_in_the_first_round_of_two_agents_the_model_itself_tells_the_outlier(site: Site) -> None:
    runner = begin(site, FLEET[:2], plan=replace(PLAN, cohort=2, quorum=2), evaluate=evaluate)
    round_with(site, runner, {"pi-0": 1e4}, FLEET[:2])

    assert (site.records[0].outliers, site.records[0].kept) == (("pi-0",), True)


def test_a_merge_that_explodes_is_not_kept_and_the_agents_are_named(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Where all updates are huge nobody can tell."""
    runner = begin(site, FLEET[:2], plan=replace(PLAN, cohort=2, quorum=2), evaluate=evaluate)
    round_with(site, runner, {"pi-0": 1e4, "pi-1": 2e4}, FLEET[:2])

    before, after = load_checkpoint(site.checkpoints, 0), load_checkpoint(site.checkpoints, 1)
    for name, array in before.exact.items():
        pruned = array * after.mask[name] if name in after.mask else array
        np.testing.assert_array_equal(after.exact[name], pruned, "the model before, pruned to the schedule")
    (record,) = site.records
    assert (record.kept, record.left_out, record.outliers, record.loss) == (False, 2, ("pi-1", "pi-0"), 1.0)
    assert {site.assignment_of(agent).left_out.round for agent in FLEET[:2]} == {0}  # type: ignore[union-attr]
    assert "; NOT KEPT: the loss exploded; left out pi-1, pi-0" in round_line(record, 5)
    assert any("the largest first, were of pi-1, pi-0; see to those agents" in message for message in caplog.messages)

    round_with(site, runner, {}, FLEET[:2])
    assert site.records[1].kept


def test_pruning_that_makes_the_loss_explode_is_no_fault_of_the_updates(site: Site) -> None:
    losses = itertools.count(1)
    runner = begin(site, FLEET, plan=PLAN, evaluate=lambda *_: Evaluation(1, 50.0 * next(losses), {"accuracy": 0.5}))
    round_with(site, runner, {})
    round_with(site, runner, {})

    assert [record.kept for record in site.records] == [True, True]


def suspects(site: Site, claims: Callable[[int], dict[str, float]], rounds: int) -> list[tuple[str, ...]]:
    """Who is named in each round if pi-3 claims this in round r."""
    runner = begin(site, FLEET, plan=PLAN)
    for round_ in range(rounds):
        for agent in FLEET:
            usual = {"loss": 0.5, "x_mean": 0.3, "x_largest": 1.0}
            submit_update(site, runner, agent, **(usual | claims(round_) if agent == "pi-3" else usual))
    return [record.suspects for record in site.records]


def test_an_agent_whose_inputs_stand_apart_for_three_rounds_is_named_once_in_the_log_and_in_each_record(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    assert suspects(site, lambda _: {"x_mean": 134.0, "x_largest": 148.0}, 5) == [(), (), *3 * [("pi-3",)]]
    (warning,) = [message for message in caplog.messages if "stands apart" in message]
    assert warning == (
        "pi-3 stands apart for 3 rounds now: its inputs reach 148, those of others 1; are its data on another scale?"
    )
    assert round_line(site.records[-1], 5).endswith("; standing apart: pi-3")


def test_two_rounds_apart_name_nobody(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    assert suspects(site, lambda round_: {"loss": 9.0} if round_ in (0, 1, 3, 4) else {}, 5) == 5 * [()]
    assert not [message for message in caplog.messages if "stands apart" in message]
