"""Training and time: nothing is begun that cannot be finished, and nothing goes on that nobody wants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from edge_agent.agent_state import (
    Connected,
    Disconnected,
    Phase,
    Send,
    StopTraining,
    Train,
    TrainingDone,
    TrainingFailed,
    Unfollow,
    Warn,
)
from edge_agent.history import MAX_DURATIONS, Durations
from fedprune.wire.messages import Assignment, Failed, Manifest
from fedprune.wire.transfer import content_of
from tests.agents import agent_in, no_work
from tests.drivers import Agent, started
from tests.samples import MODEL, MODEL_BLOB, RUN, TASK, accepted, assignment, chunks, manifest, submit

NEXT = content_of(b"model of round 1")


def with_seconds(seconds: float, round_: int = 0) -> Assignment:
    return msgspec.structs.replace(assignment(round_), seconds_left=seconds)


def knows(*seconds: float) -> Agent:
    """An idle agent that remembers how long trainings took."""
    agent = agent_in(Phase.IDLE, started(tasks=frozenset({TASK.digest}), durations=Durations(TASK.digest, seconds)))
    agent.gets(manifest())
    return agent


def gets_work(agent: Agent, seconds: float, round_: int = 0) -> tuple[Any, ...]:
    return agent.gets(with_seconds(seconds, round_), *chunks(MODEL_BLOB))


# Beginning


def test_what_cannot_be_finished_is_not_begun_and_said() -> None:
    agent = knows(55.0, 41.0, 60.0)

    unfollowed, said, warned = gets_work(agent, 3.0)

    why = "cannot finish: a round takes 41 s here, 3 s are left; set rounds.deadline_s"
    assert unfollowed == Unfollow(MODEL.digest)
    assert said == Send(Failed(run=RUN, round=0, why=why, rests=True)), "slow is not broken: no federation ends of it"
    assert warned == Warn(f"round 1: {why}")
    assert (agent.state.phase, agent.state.assignment) == (Phase.IDLE, None)


def test_fetching_takes_its_part_of_the_time() -> None:
    agent = knows(41.0)
    agent.gets(with_seconds(60.0))
    agent.now += 20.0

    assert isinstance(agent.gets(*chunks(MODEL_BLOB))[1], Send)
    assert agent.state.phase is Phase.IDLE


def test_no_refusal_is_for_ever() -> None:
    agent = knows(41.0, 41.0, 41.0)
    refused = 0
    while not isinstance(gets_work(agent, 3.0)[-1], Train):
        refused += 1

    assert refused == MAX_DURATIONS


def test_the_fastest_of_the_last_trainings_decides() -> None:
    assert isinstance(gets_work(knows(41.0, 2.0, 41.0), 3.0)[-1], Train)


def test_how_long_another_task_took_says_nothing() -> None:
    agent = agent_in(Phase.IDLE, started(durations=Durations(b"another" * 4, (41.0,)), tasks=frozenset({TASK.digest})))
    assert isinstance(gets_work(agent, 3.0)[-1], Train)


def test_each_training_is_timed_and_the_last_ones_are_remembered() -> None:
    agent = knows()
    for round_, seconds in enumerate((10.0, 20.0, 30.0, 40.0)):
        gets_work(agent, 100.0, round_)
        agent.now += seconds
        agent.gets(TrainingDone(agent.state.training, submit(round_)))
        agent.gets(accepted(round_))

    assert agent.state.durations == Durations(TASK.digest, (20.0, 30.0, 40.0))


# The deadline


def test_at_the_deadline_the_agent_asks_whether_its_training_is_still_wanted() -> None:
    agent = knows()
    gets_work(agent, 60.0)

    assert agent.waits() == (Send(agent.state.offer),)
    assert agent.now == 60.0
    assert agent.state.phase is Phase.TRAINING
    assert agent.waits() == (Send(agent.state.offer),), "and asks again if it hears nothing"


def test_the_same_assignment_renews_the_deadline() -> None:
    agent = knows()
    gets_work(agent, 60.0)
    agent.waits()

    assert agent.gets(with_seconds(100.0)) == ()
    assert agent.state.phase is Phase.TRAINING
    agent.waits()
    assert agent.now == 160.0


def test_a_deadline_that_has_always_passed_makes_no_flood() -> None:
    agent = knows()
    gets_work(agent, 0.0)
    asked = 0
    while agent.now < 600.0:
        agent.waits()
        agent.gets(with_seconds(0.0))
        asked += 1

    assert asked < 30


def test_a_training_that_was_stopped_after_its_deadline_tells_how_long_one_takes() -> None:
    agent = knows()
    gets_work(agent, 60.0)
    agent.now = 70.0
    agent.gets(no_work())

    assert agent.state.durations == Durations(TASK.digest, (70.0,))
    assert not isinstance(gets_work(agent, 60.0, 1)[-1], Train)


# Recall

RECALLS = {
    "another round": manifest(1),
    "another run": manifest(run="another-run"),
    "the end": manifest(done=True),
    "no work": no_work(),
}


@pytest.mark.parametrize("recall", RECALLS.values(), ids=RECALLS)
def test_a_recall_ends_the_training_at_once(recall: Any) -> None:
    agent = agent_in(Phase.TRAINING)

    actions = agent.gets(recall)

    assert actions[0] == StopTraining()
    assert actions[1:] == ((Send(agent.state.offer),) if isinstance(recall, Manifest) else ())
    assert (agent.state.phase, agent.state.assignment) == (Phase.IDLE, None)
    assert agent.state.wake_at is not None


@pytest.mark.parametrize("late", [TrainingDone(1, submit()), TrainingFailed(1, "stopped", frozenset({TASK.digest}))])
def test_what_still_comes_of_a_stopped_training_is_never_taken_for_the_next_ones(late: Any) -> None:
    agent = agent_in(Phase.TRAINING)
    agent.gets(no_work())
    assert agent.gets(late) == ()

    agent.gets(assignment(1), *chunks(MODEL_BLOB))
    assert agent.state.training == 2
    assert agent.gets(late) == ()
    assert agent.state.phase is Phase.TRAINING


def test_news_of_the_same_round_recall_nothing() -> None:
    agent = agent_in(Phase.TRAINING)
    assert agent.gets(manifest()) == agent.gets(manifest()) == ()
    assert agent.gets(manifest(incarnation=2)) == (Send(agent.state.offer),), "is it still wanted?"
    assert agent.gets(accepted()) == ()
    assert agent.state.phase is Phase.TRAINING


def test_a_manifest_or_an_assignment_that_was_overtaken_recalls_nothing() -> None:
    agent = knows()
    agent.gets(manifest(3), assignment(3), *chunks(MODEL_BLOB))

    assert agent.gets(manifest(2)) == agent.gets(assignment(2)) == ()
    assert agent.state.phase is Phase.TRAINING


def test_a_gateway_that_was_set_back_recalls_the_training() -> None:
    agent = knows()
    agent.gets(manifest(3), assignment(3), *chunks(MODEL_BLOB))

    assert StopTraining() in agent.gets(manifest(2, incarnation=2))


def test_an_assignment_of_a_later_round_replaces_the_training() -> None:
    agent = agent_in(Phase.TRAINING)

    assert agent.gets(assignment(1, model=NEXT))[0] == StopTraining()
    assert agent.state.phase is Phase.FETCHING
    assert agent.gets(*chunks(b"model of round 1"))[-1] == Train(2, assignment(1, model=NEXT), b"model of round 1")


def test_without_a_link_the_deadline_passes_in_silence_and_is_asked_about_afterwards() -> None:
    agent = knows()
    gets_work(agent, 60.0)
    agent.gets(Disconnected())
    agent.now = 500.0
    assert agent.state.wake_at is None

    assert agent.gets(Connected()) == (Send(agent.state.offer),)
    assert agent.state.wake_at is not None
    assert agent.state.wake_at > agent.now


def test_a_round_that_is_fetched_is_left_when_the_federation_moves_on() -> None:
    agent = agent_in(Phase.FETCHING)
    assert agent.gets(manifest(1))[-1] == Send(agent.state.offer)
    assert replace(agent.state, again_at=None).wake_at is None
