"""Agents that evaluate: what a gateway without held-out examples knows of its models, and does about them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.agents_evaluation import agents_evaluation
from aggregator.best_model import best_version
from aggregator.book import AcceptedUpdate, Spread
from aggregator.command import round_line
from aggregator.runner import AggregatorRunner
from fedprune.task.checkpoints import load_checkpoint
from fedprune.task.tallies import pack_tallies
from fedprune.wire.messages import Evaluated, Reason, Rejected, decode
from tests.gateways import BUNDLE, TASK_PLAN, TOPICS, Site, begin, submit_update

FLEET = ("pi-0", "pi-1", "pi-2", "pi-3")
PLAN = replace(TASK_PLAN, rounds=6, cohort=4, quorum=4, hold_out=0.25)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "run")


def evaluated(right: int, examples: int, loss: float = 1.0) -> Evaluated:
    tallies = pack_tallies({"accuracy": np.array([right, examples])})
    return Evaluated(examples=examples, loss=loss, tallies=tallies)


def started(site: Site, keep: int = 5) -> AggregatorRunner:
    return begin(site, FLEET, plan=PLAN, agents_evaluate=True, keep=keep)


def round_with(
    site: Site,
    runner: AggregatorRunner,
    *,
    losses: tuple[float, ...] = (1.0,) * 4,
    right: tuple[int, ...] = (2, 2, 2, 2),
    factors: tuple[float, ...] = (1.0,) * 4,
) -> None:
    """All agents train and submit, with their evaluations of 4 examples each."""
    for agent, loss, hits, factor in zip(FLEET, losses, right, factors, strict=True):
        submit_update(site, runner, agent, factor, evaluated=evaluated(hits, 4, loss))


def test_agents_are_told_what_to_hold_out(site: Site) -> None:
    started(site)

    assert site.assignment_of("pi-0").known.hold_out == 0.25


def test_a_round_tells_the_mean_and_the_spread_of_the_model_it_began_with(site: Site) -> None:
    runner = started(site)
    for agent, hits, of, loss in zip(FLEET, (1, 2, 3, 0), (2, 2, 4, 2), (1.0, 0.5, 0.25, 2.0), strict=True):
        submit_update(site, runner, agent, evaluated=evaluated(hits, of, loss))

    (record,) = site.records
    assert (record.evaluated_version, record.metrics) == (0, {"accuracy": 0.6})
    assert record.loss == pytest.approx((2 * 1.0 + 2 * 0.5 + 4 * 0.25 + 2 * 2.0) / 10)
    assert record.spreads == {
        "accuracy": Spread(4, 0.0, (0.375, 0.625, 0.8125), 1.0, "pi-3"),
        "loss": Spread(4, 2.0, (1.25, 0.75, 0.4375), 0.25, "pi-3"),
    }
    line = round_line(record, 6)
    assert "4 agents, accuracy 0.600, loss 0.8 as it began, sparsity" in line
    assert line.endswith("; accuracy of 4 agents 0 (pi-3) to 1, median 0.625")
    assert json.loads(msgspec.json.encode(record))["spreads"]["accuracy"]["worst_agent"] == "pi-3"


def test_the_best_model_is_one_that_agents_found_good_and_it_stays(site: Site) -> None:
    runner = started(site, keep=1)
    for right in (0, 3, 1, 1, 2, 2):
        round_with(site, runner, right=(right,) * 4)

    assert best_version(site.records) == 1
    assert site.checkpoints.names() == [f"{version:06d}.safetensors" for version in (1, 5, 6)]


def test_a_round_in_which_nobody_evaluates_has_no_loss(site: Site) -> None:
    runner = started(site)
    for agent in FLEET:
        submit_update(site, runner, agent)

    (record,) = site.records
    assert (record.loss, record.metrics, record.spreads, record.kept) == (None, {}, {}, True)
    assert "4 agents, no agent told a loss, sparsity" in round_line(record, 6)
    assert best_version(site.records) is None


def test_one_device_whose_loss_is_not_finite_hides_nobody_elses(site: Site) -> None:
    runner = started(site)
    for agent in FLEET[:3]:
        submit_update(site, runner, agent, evaluated=evaluated(1, 4, 0.5))
    submit_update(site, runner, FLEET[3], evaluated=Evaluated(examples=7))

    (record,) = site.records
    assert (record.loss, record.metrics, record.spreads["loss"].agents) == (0.5, {"accuracy": 0.25}, 3)


@pytest.mark.parametrize(
    ("claim", "why"),
    [
        (evaluated(5, 4), "accuracy is none of 4 examples"),
        (evaluated(5, 5000), "its evaluation is of 5000 examples, its training of 7"),
        (Evaluated(examples=4, loss=1.0, tallies=b"\xff"), "its evaluation"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused_with_its_update(site: Site, claim: Evaluated, why: str) -> None:
    runner = started(site)
    submit_update(site, runner, "pi-0", evaluated=claim)

    told = decode(Rejected, site.link.on(TOPICS.down("pi-0", "rejected"))[-1])
    assert told.reason is Reason.INVALID
    assert why in told.detail


def test_an_evaluation_weighs_no_more_than_its_update() -> None:
    tallies = pack_tallies({"accuracy": np.array([1000, 1000])})
    big = AcceptedUpdate(b"", 1, 10, 1.0, 1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 0.0, 1, 1, 1000, 0.0, tallies)
    small = msgspec.structs.replace(big, evaluated_examples=10, evaluated_loss=1.0, tallies=evaluated(0, 10).tallies)

    found = agents_evaluation({"pi-0": big, "pi-1": small}, BUNDLE.task).evaluation

    assert (found.examples, found.loss, found.metrics) == (20, 0.5, {"accuracy": 0.5})


def test_the_tallies_are_forgotten_with_the_round(site: Site) -> None:
    runner = started(site)
    submit_update(site, runner, FLEET[0], evaluated=evaluated(2, 4))
    assert site.book.accepted(0)[FLEET[0]].tallies
    for agent in FLEET[1:]:
        submit_update(site, runner, agent, evaluated=evaluated(2, 4))

    assert {update.tallies for update in site.book.accepted(0).values()} == {b""}


def test_an_evaluation_outlasts_a_restart(site: Site) -> None:
    runner = started(site)
    submit_update(site, runner, FLEET[0], evaluated=evaluated(4, 4, 0.5))
    site.book.close()
    runner = begin(site, FLEET[1:], plan=PLAN, agents_evaluate=True)
    for agent in FLEET[1:]:
        submit_update(site, runner, agent, evaluated=evaluated(0, 4, 0.5))

    assert site.records[-1].metrics == {"accuracy": 0.25}


def test_a_merge_after_which_agents_losses_explode_is_undone_and_its_agents_are_named(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """All updates of round 2 are huge, so that nobody is an outlier; round 3 tells."""
    runner = started(site)
    round_with(site, runner)
    round_with(site, runner, factors=(50.0, 60.0, 80.0, 70.0))
    before = load_checkpoint(site.checkpoints, 1)
    round_with(site, runner, losses=(90.0,) * 4)

    first, second, third = site.records
    assert (first.kept, second.kept, third.kept) == (True, True, False)
    assert (third.left_out, third.outliers) == (4, ("pi-2", "pi-3", "pi-1", "pi-0"))
    assert any(
        "round 3: the merge of round 2 was not kept: it took the agents' loss from 1 to 90. Its updates, the largest "
        "first, were of pi-2, pi-3, pi-1, pi-0; see to those agents" in message
        for message in caplog.messages
    )
    after = load_checkpoint(site.checkpoints, 3)
    for name, array in before.exact.items():
        pruned = array * after.mask[name] if name in after.mask else array
        np.testing.assert_array_equal(after.exact[name], pruned, "the model before the merge, pruned to the schedule")
    assert {site.assignment_of(agent).left_out.round for agent in FLEET} == {2}  # type: ignore[union-attr]

    round_with(site, runner)
    round_with(site, runner)
    assert [record.kept for record in site.records[3:]] == [True, True]


def test_a_model_that_was_gone_back_to_is_not_judged(site: Site) -> None:
    """Where pruning made the loss explode, going back does not help, and the run goes on."""
    runner = started(site)
    for loss in (1.0, 90.0, 95.0, 96.0):
        round_with(site, runner, losses=(loss,) * 4)

    assert [record.kept for record in site.records] == [True, False, True, True]


def test_a_loss_that_is_finite_for_nobody_is_an_explosion(site: Site) -> None:
    runner = started(site)
    round_with(site, runner)
    for agent in FLEET:
        submit_update(site, runner, agent, evaluated=Evaluated(examples=4))

    assert (site.records[1].kept, site.records[1].loss) == (False, None)


def test_what_no_answer_that_knows_nothing_costs_is_no_explosion(site: Site) -> None:
    """Losses of an answer that is the same for all examples are usual, however small the loss was before."""
    runner = started(site)
    for loss in (1e-6, math.log(20)):
        round_with(site, runner, losses=(loss,) * 4)

    assert site.records[1].kept
