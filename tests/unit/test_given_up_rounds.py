"""Rounds of a sub-gateway in which all its agents fail: the parent is told, and the next round is served."""

from __future__ import annotations

from pathlib import Path

from aggregator.part_runner import PartRunner
from aggregator.round_state import Phase
from fedprune.wire.messages import CheckIn, Failed
from tests.gateways import tell
from tests.unit.test_sub_gateway_rounds import BELOW, NORTH, PARENT, Below, Tree, check_in, given, submit_all


def check_in_waiting(runner: PartRunner, agents: tuple[str, ...]) -> None:
    """The round is over, and the next is not given yet."""
    for agent in agents:
        tell(runner, agent, CheckIn(examples=7))  # type: ignore[arg-type]
    assert runner.state.phase is Phase.MERGING


def test_a_round_in_which_all_agents_fail_is_declined_and_the_next_one_is_served(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.round(0)
    tree.hand_over()
    tree.round(1, counted=0)
    tree.hand_over()
    late = Below(tmp_path / "late")
    runner = late.takes(given(tree.site, 0))
    check_in(runner, NORTH)

    for agent in NORTH:
        tell(runner, agent, Failed(run=BELOW.run, round=0, why="labels out of range"))  # type: ignore[arg-type]
    runner.tick()

    ((run, round_, why),) = late.declined
    assert (run, round_) == (PARENT.run, 0)
    assert "3 agents of this sub-gateway failed and none succeeded" in str(why)
    check_in_waiting(runner, NORTH)
    runner.give(given(tree.site, 1))
    submit_all(late, runner, NORTH)
    assert [submit.round for submit, _ in late.parts] == [1]
    assert late.book.left_out() == {}


def test_a_round_that_was_given_up_and_is_given_again_begins_anew(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.round(0)
    late = Below(tmp_path / "late")
    runner = late.takes(given(tree.site, 0))
    check_in(runner, NORTH)
    for agent in NORTH:
        tell(runner, agent, Failed(run=BELOW.run, round=0, why="no room on the disk"))  # type: ignore[arg-type]
    check_in_waiting(runner, NORTH)

    runner.give(given(tree.site, 0))
    submit_all(late, runner, NORTH)

    assert [part for _, part in late.parts] == [tree.below["north"].parts[0][1]]


def test_who_was_left_out_before_a_round_that_was_given_up_is_told_of_the_right_round(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.round(0)
    tree.hand_over()
    tree.round(1)  # the parent did without its updates of round 0
    tree.hand_over()
    site, runner = tree.below["north"], tree.runners["north"]
    runner.give(given(tree.site, 2, counted=1))
    for agent in NORTH:
        tell(runner, agent, Failed(run=BELOW.run, round=2, why="no room on the disk"))  # type: ignore[arg-type]
    check_in_waiting(runner, NORTH)

    runner.give(given(tree.site, 2, counted=1))

    left_out = [site.assignment_of(agent).left_out for agent in NORTH]
    assert [None if each is None else each.round for each in left_out] == [0, 0, 0]
