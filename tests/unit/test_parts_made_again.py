"""A part that is asked for again, by a parent or after a restart, is the same: all that it is made of is kept until the
parent gives another round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aggregator.part_runner import GivenRound
from edge_agent.trainers import Trained, Work
from fedprune.codecs.history import MOST_UPDATES
from fedprune.data import Dataset
from fedprune.model.randomness import Keyed
from fedprune.task.tallies import pack_tallies
from fedprune.wire.messages import Evaluated
from tests.gateways import FarTrainer, submit_update, tell, trained
from tests.samples import chunks
from tests.unit.test_sub_gateway_rounds import NORTH, Below, Tree, check_in, given

HISTORY = "mask | feedback(10) | topk(0.3) | ternary | history"


def rounds(path: Path, count: int) -> list[GivenRound]:
    """So many of a parent's rounds, whose model stays as it is."""
    first = given(Tree(path).site, 0)
    checkpoints = [replace(first.model.checkpoint, version=version) for version in range(count)]
    return [
        replace(first, model=replace(first.model, checkpoint=each), counted=each.version - 1 if each.version else None)
        for each in checkpoints
    ]


def evaluated(right: int) -> Evaluated:
    return Evaluated(examples=4, loss=1.0, tallies=pack_tallies({"accuracy": np.array([right, 4])}))


def test_it_has_the_evaluations_that_came_with_its_updates(tmp_path: Path) -> None:
    site, (first,) = Below(tmp_path / "below"), rounds(tmp_path, 1)
    runner = site.takes(first)
    check_in(runner, NORTH)
    for right, agent in enumerate(NORTH):
        submit_update(site, runner, agent, evaluated=evaluated(right))  # type: ignore[arg-type]
    runner.give(first)
    site.book.close()
    site.takes(first)

    submit, *again = (submit for submit, _ in site.parts)
    assert submit.evaluated is not None
    assert submit.evaluated.examples == 12
    assert again == [submit, submit]


class Persistent(FarTrainer):
    """Moves each weight in every round as in the first: what is sent is what was sent before."""

    def train(self, work: Work, data: Dataset) -> Trained:
        return super().train(replace(work, keyed=Keyed(1, "persistent")), data)


def test_its_updates_may_be_coded_by_all_that_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.gateways.FarTrainer", Persistent)
    site, (first, *others) = Below(tmp_path / "below"), rounds(tmp_path, MOST_UPDATES + 2)
    signs: dict[str, tuple[bytes, ...]] = dict.fromkeys(NORTH, ())
    runner = site.takes(first, HISTORY)
    check_in(runner, NORTH)
    for each in (first, *others):
        runner.give(each)
        for agent in NORTH:
            result = trained(site, runner, agent, remembered=signs[agent])  # type: ignore[arg-type]
            tell(runner, agent, result.submit, *chunks(result.update.blob))  # type: ignore[arg-type]
            signs[agent] = (result.update.signs, *signs[agent])[:MOST_UPDATES]
    assert result.update.shared is not None, "it is coded by its history"
    runner.give(others[-1])
    site.book.close()
    site.takes(others[-1], HISTORY)

    *_, handed_over, again, restarted = site.parts
    assert again == restarted == handed_over
    assert site.book._fetch("SELECT count(*) FROM remembered WHERE agent = ?", NORTH[0]) == [(MOST_UPDATES + 1,)]


def test_what_the_parent_merged_counts_also_where_it_refused_a_later_part(tmp_path: Path) -> None:
    """What is said of an update that was refused, and of those before it, is forgotten by an agent's memory."""
    site, (first, second) = Below(tmp_path / "below"), rounds(tmp_path, 2)
    runner = site.takes(first)
    check_in(runner, NORTH)
    for each in (first, second):
        runner.give(each)
        for agent in NORTH:
            submit_update(site, runner, agent)  # type: ignore[arg-type]
    site.book.close()
    site.takes(replace(second, counted=None))

    assert len(site.parts) == 3
    assert site.book.left_out() == {}
