"""The agent's state machine: what it does in the situations that matter, and that nothing foreign can upset it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import get_args

import msgspec
import pytest

import edge_agent.agent_machine
from edge_agent.agent_machine import TABLE
from edge_agent.agent_state import (
    IDLE_CHECK_IN_S,
    RETRY_S,
    Connected,
    Disconnected,
    Event,
    Follow,
    HeldChanged,
    KeepTask,
    LinkDrained,
    Outcome,
    OwnEvent,
    PermissionChanged,
    Phase,
    Send,
    SendUpdate,
    Settle,
    Ticked,
    Train,
    TrainingDone,
    TrainingFailed,
    Unfollow,
    Warn,
)
from edge_agent.agent_submitting import ANSWER_S
from edge_agent.consent_events import ConsentChanged, ConsentRefused
from edge_agent.history import RoundsDone
from edge_agent.history_events import SharedTaken
from fedprune.errors import ProtocolError
from fedprune.wire.messages import (
    CHUNK_BYTES,
    DOWNLINK,
    Accepted,
    Assignment,
    Chunk,
    Failed,
    LeftOut,
    Manifest,
    Need,
    Reason,
    Rejected,
    tag_of,
)
from fedprune.wire.transfer import content_of
from fedprune.wire.transitions import UnlistedEventError, chart, check_complete
from tests.agents import agent_in, no_work, refused
from tests.drivers import CHECK_IN, Agent, need, started
from tests.samples import (
    MESSAGES,
    MODEL,
    MODEL_BLOB,
    RUN,
    TASK,
    TASK_BLOB,
    UPDATE,
    accepted,
    assignment,
    chunks,
    digest,
    manifest,
    submit,
)

OFFER = Send(CHECK_IN)
REFUSED = "round 1: the gateway refused the update: not finite"
SAMPLES: dict[type, Event] = {
    Connected: Connected(),
    Disconnected: Disconnected(),
    LinkDrained: LinkDrained(),
    Ticked: Ticked(),
    TrainingDone: TrainingDone(1, submit()),
    TrainingFailed: TrainingFailed(1, "no memory", frozenset({TASK.digest})),
    SharedTaken: SharedTaken(submit()),
    HeldChanged: HeldChanged((RUN, 0)),
    PermissionChanged: PermissionChanged("it is 81 °C"),
    ConsentRefused: ConsentRefused(1, "too large", of_task=True),
    ConsentChanged: ConsentChanged(frozenset({TASK.digest.hex()})),
    **{type(message): message for message in MESSAGES.values()},
}


@pytest.mark.parametrize("kind", [*get_args(OwnEvent), Manifest, *DOWNLINK.values()], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("phase", Phase)
def test_every_event_may_come_in_every_phase(phase: Phase, kind: type) -> None:
    agent = agent_in(phase)
    with suppress(ProtocolError):  # the sample chunk is not one that this agent is waiting for
        agent.gets(SAMPLES[kind])


def test_a_kind_of_message_that_a_phase_forgets_is_found_when_the_machine_is_imported() -> None:
    for forgotten in DOWNLINK.values():
        table = {key: found for key, found in TABLE.items() if key != (Phase.TRAINING, forgotten)}
        with pytest.raises(UnlistedEventError, match=f"{forgotten.__name__} has no row in phase Phase.TRAINING"):
            check_complete(table, Phase, DOWNLINK.values())


def test_the_chart_in_the_documentation_is_the_tables() -> None:
    drawn = "\n".join(f"    {line}" for line in chart(TABLE).splitlines())
    assert f"::\n\n{drawn}\n\n" in (edge_agent.agent_machine.__doc__ or "")


def test_what_agents_say_to_the_gateway_is_no_event() -> None:
    for message in (CHECK_IN, MESSAGES["submit"], MESSAGES["failed"]):
        with pytest.raises(UnlistedEventError):
            Agent().gets(message)  # type: ignore[arg-type]


# A round, from offer to acceptance


def test_a_new_agent_fetches_trains_and_submits() -> None:
    agent = Agent()

    assert agent.gets(Connected()) == (OFFER,)
    wanted = {
        MODEL.digest: need(MODEL),
        TASK.digest: need(TASK),
    }
    assert set(agent.gets(assignment())) == {*map(Follow, wanted), *map(Send, wanted.values())}
    assert agent.gets(*chunks(TASK_BLOB)) == ()
    assert set(agent.gets(*chunks(MODEL_BLOB))) == {
        *map(Unfollow, wanted),
        KeepTask(TASK.digest, TASK_BLOB),
        Train(1, assignment(), MODEL_BLOB),
    }
    assert agent.gets(TrainingDone(1, submit())) == (Send(submit()), SendUpdate((0, 1, 2), CHUNK_BYTES))
    assert agent.gets(accepted()) == (Settle(Outcome.ACCEPTED),)
    assert (agent.state.phase, agent.state.done.of(RUN), agent.state.pending) == (Phase.IDLE, 0, None)


def test_an_agent_offers_itself_at_once_to_a_gateway_that_knows_its_update_from_the_book_alone() -> None:
    """The gateway counts among those that wait for work who delivered to it, or checked in."""
    restarted = Agent(started(pending=submit()))
    restarted.gets(Connected(), manifest())
    assert restarted.gets(accepted()) == (Settle(Outcome.ACCEPTED), OFFER)

    agent = Agent()
    agent.gets(Connected(), manifest(), assignment(), *chunks(TASK_BLOB), *chunks(MODEL_BLOB))
    agent.gets(TrainingDone(1, submit()), manifest(incarnation=2))
    assert agent.gets(accepted()) == (Settle(Outcome.ACCEPTED), Send(agent.state.offer))

    agent.gets(assignment(1), *chunks(MODEL_BLOB), TrainingDone(2, submit(1)))
    assert agent.gets(accepted()) == (Settle(Outcome.ACCEPTED),), "it delivered to this one"


def test_the_task_is_fetched_once() -> None:
    agent = agent_in(Phase.SUBMITTING)

    actions = agent.gets(accepted(), assignment(1, model=content_of(b"model of round 1")))

    assert [type(action) for action in actions] == [Follow, Send]
    assert agent.gets(*chunks(b"model of round 1"))[-1] == Train(
        2, assignment(1, model=content_of(b"model of round 1")), b"model of round 1"
    )


@pytest.mark.parametrize("last", [accepted(), refused(Reason.LATE)])
def test_a_round_that_is_done_is_not_trained_again_and_nobody_waits_for_it(last: Event) -> None:
    agent = agent_in(Phase.SUBMITTING)
    agent.gets(last)
    before = agent.state

    assert agent.gets(assignment(0)) == (Send(Failed(run=RUN, round=0, why="this agent is done with that round")),)
    assert replace(agent.state, unanswered=0) == replace(before, unanswered=0)


def test_an_assignment_of_an_earlier_run_that_is_replayed_is_not_trained_again() -> None:
    agent = agent_in(Phase.SUBMITTING)
    agent.gets(accepted(), assignment(0, run="another-run"), *chunks(MODEL_BLOB))
    agent.gets(TrainingDone(2, submit(0, run="another-run")), accepted())
    assert agent.state.done == RoundsDone(((RUN, 0), ("another-run", 0)))

    agent.gets(assignment(0))

    assert agent.state.phase is Phase.IDLE


# What becomes of an update


def test_a_late_update_goes_back_into_the_residual_and_the_agent_offers_itself_at_once() -> None:
    agent = agent_in(Phase.SUBMITTING)

    assert agent.gets(refused(Reason.LATE)) == (Settle(Outcome.LATE), Send(agent.state.offer))
    assert (agent.state.phase, agent.state.done.of(RUN)) == (Phase.IDLE, 0)


def test_an_invalid_update_is_discarded_and_the_agent_waits_as_told() -> None:
    agent = agent_in(Phase.SUBMITTING)

    assert agent.gets(refused(Reason.INVALID)) == (Settle(Outcome.INVALID), Warn(REFUSED))
    assert (agent.state.phase, agent.state.done.of(RUN)) == (Phase.IDLE, -1)
    assert agent.state.wake_at is not None
    assert 25.0 <= agent.state.wake_at - agent.now <= 75.0


@pytest.mark.parametrize(
    "other",
    [
        Accepted(round=0, update=digest("another update")[:4]),
        Rejected(reason=Reason.LATE, digest=digest("another update")),
        no_work(),
        Need(digest=MODEL.digest, missing=b"\1"),
        assignment(1),
    ],
)
def test_answers_about_anything_else_settle_nothing(other: Event) -> None:
    agent = agent_in(Phase.SUBMITTING)

    assert agent.gets(other) == ()
    assert agent.state.pending == submit()


def test_chunks_are_sent_as_often_as_they_are_asked_for() -> None:
    agent = agent_in(Phase.SUBMITTING)

    for missing, indexes in ((b"\x05", (0, 2)), (b"\x02", (1,)), (b"\xff", (0, 1, 2))):
        agent.gets(LinkDrained())
        assert agent.gets(Need(digest=UPDATE.digest, missing=missing)) == (SendUpdate(indexes, CHUNK_BYTES),)
    with pytest.raises(ProtocolError, match="bitmap of 2 bytes for 3 chunks"):
        agent.gets(Need(digest=UPDATE.digest, missing=b"\1\1"))


def test_an_unanswered_submission_is_said_again_ever_more_slowly() -> None:
    agent = agent_in(Phase.SUBMITTING)
    agent.gets(LinkDrained())
    pauses = []
    for _ in range(12):
        before = agent.now
        assert agent.waits()[0] == Send(submit())
        pauses.append(agent.now - before)

    assert pauses[0] == ANSWER_S
    assert all(16 * RETRY_S <= pause <= 48 * RETRY_S for pause in pauses[6:])


def test_the_gateways_manifest_makes_the_agent_ask_about_its_update_soon() -> None:
    agent = agent_in(Phase.SUBMITTING)
    agent.gets(LinkDrained(), manifest(0))
    for _ in range(5):
        agent.waits()

    assert agent.gets(manifest(0)) == ()
    assert agent.gets(manifest(1)) == (), "the next work may say it"
    before = agent.now
    assert agent.waits()[0] == Send(submit())
    assert agent.now - before <= RETRY_S * 1.5


def test_the_next_work_says_that_the_update_is_accepted() -> None:
    agent, other = agent_in(Phase.SUBMITTING), content_of(b"model of round 1")
    told = msgspec.structs.replace(assignment(1, model=other, terms=None), accepted=tag_of(UPDATE.digest))

    settled, *actions = agent.gets(told)

    assert settled == Settle(Outcome.ACCEPTED)
    assert actions == [Follow(other.digest), Send(need(other))]
    assert (agent.state.phase, agent.state.pending) == (Phase.FETCHING, None)


@pytest.mark.parametrize("said", [None, tag_of(MODEL.digest)])
def test_work_that_does_not_say_what_became_of_the_update_waits(said: bytes | None) -> None:
    agent = agent_in(Phase.SUBMITTING)
    assert agent.gets(msgspec.structs.replace(assignment(1), accepted=said)) == ()
    assert (agent.state.phase, agent.state.pending, agent.state.assignment) == (Phase.SUBMITTING, submit(), None)


# Starting again


def test_a_restarted_agent_with_a_pending_update_asks_the_book_about_it_before_it_takes_work() -> None:
    agent = Agent(started(done=RoundsDone(((RUN, 2),)), tasks=frozenset({TASK.digest}), pending=submit(3)))

    assert agent.gets(Connected())[-1] == Send(submit(3))
    assert agent.gets(assignment(4)) == ()
    assert agent.gets(accepted())[0] == Settle(Outcome.ACCEPTED)
    assert agent.state.done.of(RUN) == 3


def test_a_restarted_agent_is_given_its_round_again() -> None:
    agent = Agent(started(done=RoundsDone(((RUN, 2),)), tasks=frozenset({TASK.digest})))

    agent.gets(Connected())
    assert Send(need(MODEL)) in agent.gets(assignment(3))


# Fetching


def test_wrong_bytes_make_the_whole_content_come_again() -> None:
    agent = agent_in(Phase.FETCHING)
    agent.gets(*chunks(TASK_BLOB))

    poisoned = Chunk(digest=MODEL.digest, index=0, data=b"X" * len(MODEL_BLOB))
    told, asked = agent.gets(poisoned)
    assert isinstance(told, Warn)
    assert "arrived with another digest: somebody between sends other chunks than the gateway" in told.text
    assert asked == Send(need(MODEL))
    assert agent.gets(*chunks(MODEL_BLOB))[-1] == Train(1, assignment(), MODEL_BLOB)


def test_what_cannot_be_a_chunk_of_the_content_raises_and_changes_nothing() -> None:
    agent = agent_in(Phase.FETCHING)
    before = agent.state
    for chunk in (
        Chunk(digest=MODEL.digest, index=1, data=MODEL_BLOB),
        Chunk(digest=MODEL.digest, index=0, data=MODEL_BLOB[:-1]),
    ):
        with pytest.raises(ProtocolError):
            agent.gets(chunk)
        assert agent.state == before


def test_after_some_silence_the_agent_asks_whether_it_is_still_assigned() -> None:
    agent = agent_in(Phase.FETCHING)
    agent.gets(*chunks(TASK_BLOB))
    assert Send(agent.state.offer) in agent.waits()


def test_only_what_is_missing_is_asked_for_again() -> None:
    agent = agent_in(Phase.FETCHING)
    agent.gets(*chunks(TASK_BLOB))

    assert agent.waits() == (Send(need(MODEL)), Send(agent.state.offer))


def test_an_agent_that_knows_the_terms_need_not_be_told_them_again() -> None:
    agent = agent_in(Phase.SUBMITTING)
    agent.gets(accepted())
    assert agent.state.offer.terms == 1

    agent.gets(assignment(1, model=content_of(b"model of round 1"), terms=None))

    assert agent.state.assignment == assignment(1, model=content_of(b"model of round 1"))


@pytest.mark.parametrize(
    "unknown", [assignment(1, incarnation=2, terms=None), assignment(run="another-run", terms=None)], ids=str
)
def test_an_agent_asks_for_terms_that_it_does_not_know(unknown: Assignment) -> None:
    for agent in (agent_in(Phase.IDLE), agent_in(Phase.TRAINING)):
        before = agent.state.phase
        (asked,) = agent.gets(unknown)
        assert asked == Send(agent.state.offer)
        assert agent.state.offer.terms == 0
        assert agent.state.phase is before


def test_being_told_that_there_is_no_work_ends_the_assignment() -> None:
    agent = agent_in(Phase.FETCHING)

    assert set(agent.gets(no_work())) == {Unfollow(MODEL.digest), Unfollow(TASK.digest)}
    assert (agent.state.phase, agent.state.assignment) == (Phase.IDLE, None)
    assert agent.state.wake_at is not None


def test_when_the_round_has_moved_on_the_agent_offers_itself_again() -> None:
    agent = agent_in(Phase.FETCHING)

    actions = set(agent.gets(manifest(1)))

    assert actions == {Unfollow(MODEL.digest), Unfollow(TASK.digest), Send(agent.state.offer)}
    assert agent.state.phase is Phase.IDLE


def test_a_new_assignment_replaces_one_that_is_being_fetched() -> None:
    agent, other = agent_in(Phase.FETCHING), content_of(b"model of round 1")

    assert agent.gets(assignment()) == ()
    actions = agent.gets(assignment(1, model=other))

    assert {Unfollow(MODEL.digest), Unfollow(TASK.digest), Follow(other.digest), Follow(TASK.digest)} <= set(actions)
    assert agent.state.receiving.keys() == {other.digest, TASK.digest}


# Training, and failing


def test_what_cannot_be_trained_is_reported_and_tried_again_when_assigned_again() -> None:
    agent = agent_in(Phase.TRAINING)

    assert agent.gets(TrainingFailed(1, "no " + "m" * 2000, frozenset({TASK.digest}))) == (
        Send(Failed(run=RUN, round=0, why=("no " + "m" * 2000)[:1000])),
    )
    assert agent.state.phase is Phase.IDLE
    agent.gets(assignment(0))
    assert agent.state.phase is Phase.FETCHING


def test_training_goes_on_without_a_network_and_its_update_is_submitted_when_the_link_is_up() -> None:
    agent = agent_in(Phase.TRAINING)

    agent.gets(Disconnected(), TrainingDone(1, submit()))
    assert agent.state.phase is Phase.SUBMITTING

    assert Send(submit()) in agent.gets(Connected())


# Offering itself


def test_an_idle_agent_offers_itself_from_time_to_time() -> None:
    agent = agent_in(Phase.IDLE)
    for _ in range(5):
        before = agent.now
        assert agent.waits()[0] == OFFER
        assert IDLE_CHECK_IN_S / 2 <= agent.now - before <= IDLE_CHECK_IN_S * 1.5


def test_an_idle_agent_offers_itself_once_to_each_start_of_an_aggregator() -> None:
    agent = agent_in(Phase.IDLE)

    assert agent.gets(manifest(incarnation=1)) == (OFFER,)
    assert agent.gets(manifest(incarnation=1)) == agent.gets(manifest(1, incarnation=1)) == ()
    assert agent.gets(manifest(1, incarnation=2)) == (OFFER,)
    assert agent.gets(manifest(1, incarnation=3, done=True)) == ()


@pytest.mark.parametrize("phase", Phase)
def test_without_a_link_no_alarm_rings(phase: Phase) -> None:
    """An alarm in the past that changes nothing would make the shell spin."""
    agent = agent_in(phase)
    agent.gets(Disconnected(), *([TrainingDone(1, submit())] if phase is Phase.TRAINING else []), no_work())
    agent.now = 1e6
    agent.gets(Ticked())

    assert agent.state.wake_at is None


def test_a_task_that_is_not_kept_any_more_is_fetched_again() -> None:
    """The training found it damaged on the disk."""
    agent = Agent()
    agent.gets(Connected(), assignment(), *chunks(TASK_BLOB), *chunks(MODEL_BLOB))
    assert agent.state.phase is Phase.TRAINING

    agent.gets(TrainingFailed(agent.state.training, "the task bundle is damaged", frozenset()))
    agent.gets(assignment(1, model=content_of(b"next")))

    assert set(agent.state.receiving) == {TASK.digest, content_of(b"next").digest}


def test_people_are_told_once_that_the_last_update_was_left_out() -> None:
    agent = Agent(started(done=RoundsDone(((RUN, 2),))))
    left_out = LeftOut(round=2, why="it is huge")
    what = "round 3: the update was accepted, but left out of the merge: it is huge; what it left behind is dropped"

    assert Warn(what) in agent.gets(Connected(), msgspec.structs.replace(assignment(3), left_out=left_out))
    agent = Agent(started(done=RoundsDone(((RUN, 3),))))
    said = agent.gets(Connected(), msgspec.structs.replace(assignment(4), left_out=left_out))
    assert not [action for action in said if isinstance(action, Warn)], "it was told with the round before"
