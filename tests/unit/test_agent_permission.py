"""An agent whose device does not permit training offers itself to nobody, and gives up what is held too long."""

from __future__ import annotations

import pytest

from edge_agent.agent_state import (
    LONGEST_PAUSE_S,
    Connected,
    PermissionChanged,
    Phase,
    Send,
    StopTraining,
    Ticked,
    TrainingDone,
)
from fedprune.wire.messages import CheckIn, Failed, Message
from tests.agents import agent_in
from tests.drivers import Agent
from tests.samples import accepted, assignment, manifest, submit

HOT = PermissionChanged("it is 81 °C, at most 70 are allowed")
COOL = PermissionChanged("")


def said(actions: tuple[object, ...]) -> list[Message]:
    return [action.message for action in actions if isinstance(action, Send)]


def test_an_agent_that_waits_does_not_check_in_and_does_as_soon_as_it_may() -> None:
    agent = Agent()
    agent.gets(HOT)
    assert not said(agent.gets(Connected()))
    assert not said(agent.gets(manifest()))
    assert agent.state.wake_at is None
    (offer,) = said(agent.gets(COOL))
    assert isinstance(offer, CheckIn)


def test_an_assignment_that_comes_all_the_same_is_declined_with_the_reason() -> None:
    agent = agent_in(Phase.IDLE)
    agent.gets(HOT)
    (failed,) = said(agent.gets(assignment()))
    assert isinstance(failed, Failed)
    assert failed.why == HOT.why_not
    assert failed.rests
    assert agent.state.phase is Phase.IDLE


def test_a_training_that_is_held_for_a_while_goes_on_as_if_it_had_begun_later() -> None:
    agent = agent_in(Phase.TRAINING)
    agent.now = 5.0
    agent.gets(HOT)
    agent.now = 5.0 + LONGEST_PAUSE_S - 1.0
    agent.gets(Ticked())
    assert agent.state.phase is Phase.TRAINING
    agent.gets(COOL)
    assert agent.state.trained_since == LONGEST_PAUSE_S - 1.0
    agent.now += 2.0
    agent.gets(Ticked())
    assert agent.state.phase is Phase.TRAINING


def test_a_training_that_is_held_too_long_is_given_up_so_that_nobody_waits_for_it() -> None:
    agent = agent_in(Phase.TRAINING)
    agent.gets(HOT)
    assert agent.state.wake_at is not None
    assert agent.state.wake_at <= LONGEST_PAUSE_S
    agent.now = LONGEST_PAUSE_S
    actions = agent.gets(Ticked())
    assert StopTraining() in actions
    (failed,) = said(actions)
    assert isinstance(failed, Failed)
    assert failed.why == f"held too long: {HOT.why_not}"
    assert failed.rests
    assert agent.state.phase is Phase.IDLE
    agent.now += 1000.0
    assert not said(agent.gets(Ticked()))


def test_a_training_that_begins_while_it_is_held_has_the_same_patience() -> None:
    agent = agent_in(Phase.FETCHING)
    agent.gets(HOT)
    from tests.samples import MODEL_BLOB, TASK_BLOB, chunks

    agent.now = 30.0
    agent.gets(*chunks(TASK_BLOB), *chunks(MODEL_BLOB))
    assert agent.state.phase is Phase.TRAINING
    assert agent.state.given_up_at == 30.0 + LONGEST_PAUSE_S


@pytest.mark.parametrize("answer", [accepted()])
def test_an_update_is_submitted_whatever_the_device_permits_and_nothing_new_is_asked_for(answer: Message) -> None:
    agent = agent_in(Phase.TRAINING)
    agent.gets(HOT)
    agent.gets(TrainingDone(1, submit()))
    assert agent.state.phase is Phase.SUBMITTING
    agent.gets(answer)
    assert agent.state.phase is Phase.IDLE
    agent.now = 1000.0
    assert not said(agent.gets(Ticked()))
