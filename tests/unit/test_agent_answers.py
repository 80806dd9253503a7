"""What the gateway's refusals do to an agent: tickets, second tries, and messages that cannot be read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aggregator.round_answers import of_another_run
from edge_agent.agent_state import (
    IDLE_CHECK_IN_S,
    LONGEST_WAIT_S,
    MAX_REFUSALS,
    RETRY_S,
    Connected,
    Disconnected,
    LinkDrained,
    Outcome,
    Phase,
    Send,
    SendUpdate,
    Settle,
    SubmitWhole,
    Train,
    TrainingDone,
    Warn,
)
from edge_agent.history_events import SendShared, SharedTaken
from fedprune.wire.messages import CHUNK_BYTES, CheckIn, Failed, Reason, Rejected
from fedprune.wire.transfer import content_of
from tests.agents import agent_in, no_work, refused
from tests.drivers import Agent, started
from tests.samples import MODEL_BLOB, RUN, TASK_BLOB, UPDATE, accepted, assignment, chunks, manifest, submit


def tries(agent: Agent, round_: int = 0) -> tuple[Any, ...]:
    """Assign a round to an idle agent; the actions with which it begins to train, or refuses to."""
    declined = agent.gets(assignment(round_))
    return agent.gets(*chunks(TASK_BLOB), *chunks(MODEL_BLOB)) if agent.state.phase is Phase.FETCHING else declined


def is_refused(agent: Agent, round_: int = 0) -> tuple[Any, ...]:
    """Train a round, and have the update refused as invalid."""
    tries(agent, round_)
    agent.gets(TrainingDone(agent.state.training, submit(round_)))
    return agent.gets(refused(Reason.INVALID))


# Refused updates


def test_a_round_whose_update_was_refused_is_tried_once_more_and_then_sat_out() -> None:
    agent = agent_in(Phase.IDLE)
    is_refused(agent)
    assert isinstance(tries(agent)[-1], Train), "once more"
    agent.gets(TrainingDone(2, submit()), refused(Reason.INVALID))

    for _ in range(3):
        said, warned = tries(agent)
        assert said == Send(Failed(run=RUN, round=0, why="sits out: refused twice: not finite"))
        assert warned == Warn("round 1: sits out: refused twice: not finite")
        assert agent.state.phase is Phase.IDLE
    assert isinstance(tries(agent, 1)[-1], Train), "the next round is another one"


def test_a_gateway_that_was_started_again_may_ask_for_the_round_again() -> None:
    agent = agent_in(Phase.IDLE)
    agent.gets(manifest())
    for _ in range(MAX_REFUSALS):
        is_refused(agent)

    agent.gets(manifest())
    assert not isinstance(tries(agent)[-1], Train)
    agent.gets(manifest(incarnation=2))
    assert isinstance(tries(agent)[-1], Train)


def test_refusals_of_another_round_are_not_counted_together() -> None:
    agent = agent_in(Phase.IDLE)
    for round_ in (0, 1, 2):
        is_refused(agent, round_)
        assert isinstance(tries(agent, round_)[-1], Train)
        agent.gets(no_work())


def test_a_reason_that_is_no_verdict_settles_nothing() -> None:
    for reason in (Reason.NOT_SELECTED, Reason.FINISHED):
        agent = agent_in(Phase.SUBMITTING)
        assert agent.gets(refused(reason)) == ()
        assert agent.state.pending == submit()


def test_an_agent_whose_update_is_of_another_run_offers_itself_for_this_one_soon() -> None:
    agent = agent_in(Phase.SUBMITTING)
    agent.gets(of_another_run(submit()))
    before = agent.now

    assert agent.waits() == (Send(agent.state.offer),)
    assert agent.now - before <= RETRY_S * 1.5


@pytest.mark.parametrize("phase", [Phase.FETCHING, Phase.TRAINING])
def test_an_agent_with_work_that_is_sent_away_asks_once_soon_since_that_may_be_older_than_its_work(
    phase: Phase,
) -> None:
    agent = agent_in(phase)
    agent.gets(no_work())
    before = agent.now

    assert agent.waits() == (Send(agent.state.offer),)
    assert agent.now - before <= RETRY_S * 1.5
    agent.gets(no_work())
    before = agent.now
    agent.waits()
    assert agent.now - before > RETRY_S * 1.5


# Messages that the gateway cannot read


@pytest.mark.parametrize("about", [None, UPDATE.digest])
def test_an_update_that_the_gateway_cannot_read_is_kept_and_asked_about_much_later(about: bytes | None) -> None:
    agent = agent_in(Phase.SUBMITTING)
    agent.gets(LinkDrained())

    (warned,) = agent.gets(Rejected(reason=Reason.UNREADABLE, detail="schema version 2", digest=about))

    assert isinstance(warned, Warn)
    assert "schema version 2" in warned.text
    assert agent.state.pending == submit()
    before = agent.now
    assert agent.waits() == (Send(submit()),)
    assert agent.now - before >= LONGEST_WAIT_S / 2
    agent.gets(manifest())
    assert agent.gets(manifest(incarnation=2)) == (Send(submit()),), "an upgraded gateway is asked at once"


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.FETCHING, Phase.TRAINING])
def test_what_cannot_be_read_stops_nothing(phase: Phase) -> None:
    """Anybody whom the broker lets speak in the agent's name can cause it."""
    agent = agent_in(phase)

    (warned,) = agent.gets(Rejected(reason=Reason.UNREADABLE, detail="not MessagePack"))

    assert isinstance(warned, Warn)
    assert agent.state.phase is phase


# Tickets, and what a check-in says


def ticket(value: bytes) -> Rejected:
    return Rejected(reason=Reason.NOT_SELECTED, retry_after=30.0, ticket=value)


def test_a_ticket_is_shown_at_once_and_from_then_on() -> None:
    agent = agent_in(Phase.IDLE)
    shown = Send(CheckIn(examples=1500, trainer="keras", ticket=b"1"))

    assert agent.gets(ticket(b"1")) == (shown,)
    assert agent.gets(ticket(b"1")) == (), "it is known"
    assert agent.waits() == (shown,)


def test_a_check_in_tells_the_most_examples_there_can_be_until_a_training_has_shown_how_many_there_are() -> None:
    agent = agent_in(Phase.TRAINING)
    assert agent.state.offer.examples == 1500

    agent.gets(TrainingDone(1, submit(examples=23)))

    assert agent.state.offer.examples == 23


def test_a_federation_that_begins_when_a_short_one_ends_is_joined_soon() -> None:
    agent = agent_in(Phase.IDLE)
    agent.gets(ticket(b"1"), manifest(0, done=True))
    agent.now = RETRY_S / 2
    agent.gets(manifest(0, run="the-next"))

    assert agent.gets(ticket(b"2")) == ()

    assert agent.waits() == (Send(agent.state.offer),)
    assert agent.state.offer.ticket == b"2"
    assert agent.now <= RETRY_S / 2 + RETRY_S * 1.5


def test_a_fleet_that_is_given_new_tickets_together_does_not_show_them_together() -> None:
    times = []
    for number in range(100):
        agent = agent_in(Phase.IDLE, replace(started(), name=f"pi-{number}"))
        agent.gets(ticket(b"1"), ticket(b"2"))
        agent.waits()
        times.append(agent.now)

    counts, _ = np.histogram(times, bins=4, range=(RETRY_S * 0.5, RETRY_S * 1.5))
    assert min(counts) >= 10


def test_whoever_gives_ever_new_tickets_makes_no_flood_of_check_ins() -> None:
    agent = agent_in(Phase.IDLE)
    said = [agent.gets(ticket(bytes([number]))) for number in range(100)]

    assert sum(map(len, said)) == 1
    assert agent.state.offer.ticket == b"c", "the last one counts"
    agent.now += RETRY_S
    assert agent.gets(ticket(b"x"))


def test_two_that_give_tickets_in_turn_are_soon_asked_as_seldom_as_one_without_work() -> None:
    agent, check_ins = agent_in(Phase.IDLE), 0
    while agent.now < 3600.0:
        check_ins += len(agent.gets(ticket(b"1"))) + len(agent.gets(ticket(b"2"))) + len(agent.waits())

    assert check_ins <= 2 * (3600.0 / (IDLE_CHECK_IN_S / 2) + 6)
    agent.gets(assignment())
    agent.gets(manifest(run="the-next"), ticket(b"3"))
    before = agent.now
    agent.gets(ticket(b"4"))
    agent.waits()
    assert agent.now - before <= RETRY_S * 1.5, "work came between"


@pytest.mark.parametrize("phase", [Phase.FETCHING, Phase.TRAINING, Phase.SUBMITTING])
def test_a_ticket_recalls_no_work_and_is_shown_with_the_next_check_in(phase: Phase) -> None:
    agent = agent_in(phase)

    assert agent.gets(ticket(b"1")) == ()
    assert agent.gets(ticket(b"1")) == (), "whoever sends it again"

    assert agent.state.phase is phase
    agent.gets(Disconnected())
    assert Send(agent.state.offer) in agent.gets(Connected())
    assert agent.state.offer.ticket == b"1"


def test_a_settled_update_leaves_no_refusals_to_later_rounds() -> None:
    agent = agent_in(Phase.IDLE)
    is_refused(agent)
    tries(agent)
    assert any(isinstance(action, Settle) for action in agent.gets(TrainingDone(2, submit()), refused(Reason.LATE)))
    assert isinstance(tries(agent, 1)[-1], Train)


# Histories that differ


def test_an_update_by_another_history_is_sent_without_and_its_round_goes_on() -> None:
    agent, shared = agent_in(Phase.SUBMITTING), submit(update=content_of(b"shared"))

    assert agent.gets(refused(Reason.OTHER_HISTORY)) == (SendShared(),)
    assert agent.gets(SharedTaken(shared)) == (SubmitWhole(),)
    assert agent.gets(refused(Reason.OTHER_HISTORY)) == (), "the answer came twice"
    assert (agent.state.phase, agent.state.pending) == (Phase.SUBMITTING, shared)
    assert agent.gets(accepted(update=shared.content))[0] == Settle(Outcome.ACCEPTED)


def test_an_update_without_its_history_goes_in_chunks_where_it_is_large_and_waits_for_the_link() -> None:
    large = submit(update=content_of(bytes(20_000)))
    agent = agent_in(Phase.SUBMITTING)
    assert agent.gets(SharedTaken(large)) == (Send(large), SendUpdate((0,), CHUNK_BYTES))

    agent = agent_in(Phase.SUBMITTING)
    agent.gets(Disconnected(), SharedTaken(large))
    assert Send(large) in agent.gets(Connected())
