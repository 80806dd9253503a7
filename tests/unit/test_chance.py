"""A run that learns nothing is told why that may be: once, and nobody else is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.book import RoundRecord
from aggregator.chance import ROUNDS, causes_at_chance
from tests.gateways import AGENTS, TASK_PLAN, Site, begin, submit_update

CONSTANT = math.log(10)


def record(round_: int, loss: float | None, accuracy: float, sparsity: float = 0.0) -> RoundRecord:
    return RoundRecord(
        round_, 2, round_ + 1, loss, {"accuracy": accuracy}, {}, sparsity, 1, 1, 1.0, 1.0, 1.0, 0, 0, 0, 1.0, True, 0,
        (), (), 0.0, 0.0,
    )  # fmt: skip


def run(*figures: tuple[float | None, float], sparsity: float = 0.0) -> list[RoundRecord]:
    return [record(round_, *each, sparsity=sparsity) for round_, each in enumerate(figures)]


def test_causes_come_in_the_order_of_what_points_to_them() -> None:
    said = causes_at_chance(run(*[(2.31, 0.1)] * ROUNDS), 1.0, CONSTANT).split("; ")
    assert [cause.split()[0] for cause in said] == ["labels", "inputs", "the"]

    said = causes_at_chance(run(*[(9.0, 0.1)] * ROUNDS, sparsity=0.8), 255.0, CONSTANT).split("; ")
    assert [cause.partition(" (")[0] for cause in said] == [
        "inputs are not scaled as the model expects them",
        "the learning rate is too high",
        "weights were pruned before they learned",
        "labels do not belong to their examples, or classes are numbered otherwise on some devices",
    ]
    assert "the largest is 255" in said[0]


@pytest.mark.parametrize(
    "figures",
    [
        [(2.31, 0.1)] * (ROUNDS - 1),
        [(2.31, 0.1)] * (ROUNDS + 1),
        [(2.31, 0.1)] * (ROUNDS - 1) + [(2.0, 0.1)],
        [(2.31, 0.1)] * (ROUNDS - 1) + [(2.4, 0.3)],
        [(None, 0.1)] * ROUNDS,
    ],
    ids=["too early", "said before", "the loss falls", "the accuracy rises", "no loss is known"],
)
def test_nothing_is_said_of_other_runs(figures: list[tuple[float | None, float]]) -> None:
    assert causes_at_chance(run(*figures), 255.0, CONSTANT) == ""


def test_a_gateway_says_it_once_in_its_log_and_in_the_rounds_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path / "run")
    runner = begin(site, plan=replace(TASK_PLAN, rounds=ROUNDS + 1), loss=1.0)
    for _ in range(ROUNDS + 1):
        for agent in AGENTS:
            submit_update(site, runner, agent)

    said = [each.hint for each in site.records]
    assert [bool(hint) for hint in said] == [False] * (ROUNDS - 1) + [True, False]
    assert caplog.text.count("models are no better than the same answer for all examples") == 1
    assert said[ROUNDS - 1] in caplog.text
