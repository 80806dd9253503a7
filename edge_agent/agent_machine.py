"""The agent as a pure state machine: (state, event, now) -> (state, actions).

The ways between phases, and the events that take them (drawn from the table, see `fedprune.wire.transitions.chart`)::

    IDLE -> FETCHING        Assignment
    IDLE -> TRAINING        Assignment
    FETCHING -> IDLE        Manifest, Assignment, Chunk, Rejected
    FETCHING -> TRAINING    Assignment, Chunk
    TRAINING -> IDLE        Ticked, Manifest, Assignment, Rejected, TrainingFailed, ConsentRefused, ConsentChanged
    TRAINING -> FETCHING    Assignment
    TRAINING -> SUBMITTING  TrainingDone
    SUBMITTING -> IDLE      Assignment, Accepted, Rejected
    SUBMITTING -> FETCHING  Assignment
    SUBMITTING -> TRAINING  Assignment

There is no clock, socket or file in here. Being connected is not a phase: training goes on without a network.
Whatever may have been lost is asked for again at `wake_at`. Foreign nonsense raises `ProtocolError` and changes
nothing; an event that the table does not list raises `UnlistedEventError`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from edge_agent.agent_consent import note_consent, withdraw_consent, withhold_training
from edge_agent.agent_fetching import (
    ask_anew,
    ask_overdue,
    await_deadline,
    fail,
    give_up_held,
    receive,
    retake,
    take,
)
from edge_agent.agent_offering import (
    check_in,
    leave_round,
    lose_round,
    note_held,
    note_permission,
    wait_for_work,
)
from edge_agent.agent_state import (
    RETRY_S,
    Action,
    AgentState,
    Connected,
    Disconnected,
    Event,
    Follow,
    HeldChanged,
    LinkDrained,
    OwnEvent,
    PermissionChanged,
    Phase,
    Seen,
    Send,
    Step,
    Ticked,
    TrainingDone,
    TrainingFailed,
    Warn,
)
from edge_agent.agent_submitting import (
    accepted,
    offered,
    refused,
    say_submit,
    serve_missing,
    serve_on,
    submit,
    submit_again,
    submit_shared,
    take_next,
)
from edge_agent.consent_events import ConsentChanged, ConsentRefused
from edge_agent.history_events import SharedTaken
from fedprune.wire.messages import DOWNLINK, Accepted, Assignment, Begun, Chunk, Manifest, Need, Rejected
from fedprune.wire.transitions import Table, backoff, check_complete, row, transition

_ANSWERS = (Assignment, Need, Accepted, Rejected)


def step(state: AgentState, event: Event, now: float) -> Step:
    """One transition. `now` is monotonic seconds."""
    if isinstance(event, _ANSWERS):
        state = replace(state, heard_at=now, unanswered=0)
    return transition(TABLE, state, type(event), event, now)


# Connection and time


def _connect_idle(state: AgentState, _: Connected, now: float) -> Step:
    return check_in(replace(state, connected=True, attempt=0), now)


def _connect_fetching(state: AgentState, _: Connected, now: float) -> Step:
    follow = tuple(Follow(digest) for digest in state.receiving)
    state, asks = _ask_for_all(replace(state, connected=True), now)
    return state, follow + asks


def _connect_training(state: AgentState, _: Connected, now: float) -> Step:
    return await_deadline(replace(state, connected=True, attempt=0), now), (Send(state.offer),)


def _connect_submitting(state: AgentState, _: Connected, now: float) -> Step:
    serving, trouble = state.serving.reconnected()
    state = replace(state, connected=True, attempt=0, serving=serving, link=state.link.cut(serving.chunk_bytes))
    state, said = say_submit(state, now)
    return state, (Send(state.offer), *said, *((Warn(trouble),) if trouble else ()))


def _disconnect(state: AgentState, _: Disconnected, __: float) -> Step:
    return replace(state, connected=False), ()


def _offer_when_due(state: AgentState, _: Ticked, now: float) -> Step:
    return check_in(state, now) if _is_due(state, now) else (state, ())


def _ask_when_overdue(state: AgentState, _: Ticked, now: float) -> Step:
    """Say that the agent has begun; and past the deadline ask whether the training is still wanted. One that is
    held too long is given up."""
    if state.connected and state.given_up_at is not None and now >= state.given_up_at:
        return give_up_held(state, now)
    if state.connected and state.begun_at is not None and now >= state.begun_at:
        assert state.assignment is not None
        return replace(state, begun_at=None), (Send(Begun(round=state.assignment.round)),)
    if not _is_due(state, now):
        return state, ()
    return await_deadline(replace(state, attempt=state.attempt + 1), now), (Send(state.offer),)


def _is_due(state: AgentState, now: float) -> bool:
    return state.connected and state.again_at is not None and now >= state.again_at


# Manifest


def _see_when_idle(state: AgentState, manifest: Manifest, now: float) -> Step:
    seen = state.seen
    is_news = seen is None or (seen.run, seen.incarnation) != (manifest.run, manifest.incarnation)
    state = _note(state, manifest)
    return check_in(state, now) if is_news and not manifest.done else (state, ())


def _see_when_fetching(state: AgentState, manifest: Manifest, now: float) -> Step:
    if _has_moved_on(state, manifest):
        return _move_on(state, manifest, now)
    is_restarted = _is_restarted(state, manifest)
    state = _note(state, manifest)
    return _ask_for_all(state, now) if is_restarted else (state, ())


def _see_when_training(state: AgentState, manifest: Manifest, now: float) -> Step:
    if _has_moved_on(state, manifest):
        return _move_on(state, manifest, now)
    is_restarted = _is_restarted(state, manifest)
    state = _note(state, manifest)
    if not is_restarted:
        return state, ()
    return await_deadline(replace(state, attempt=0), now), (Send(state.offer),)


def _see_when_submitting(state: AgentState, manifest: Manifest, now: float) -> Step:
    """The gateway has news: ask its book about the pending update, one that was started anew at once, else soon, since
    the next work may say it before. The first manifest is no news, connecting asked."""
    assert state.pending is not None
    is_news = state.seen not in (None, _seen_in(manifest))
    if _is_restarted(state, manifest):
        state = replace(_note(state, manifest), serving=offered(state, state.pending.content), attempt=0)
        return say_submit(state, now)
    state = _note(state, manifest)
    if not is_news:
        return state, ()
    return replace(state, attempt=0, again_at=now + backoff(RETRY_S, 0, state.name)), ()


def _ask_for_all(state: AgentState, now: float) -> Step:
    """A gateway or a broker that may have forgotten the agent is told again what it lacks."""
    offer = Send(state.offer)
    state, asks = ask_anew(state, now)
    return state, (offer, *asks)


def _move_on(state: AgentState, manifest: Manifest, now: float) -> Step:
    idle, left = leave_round(_note(state, manifest), now)
    idle, offer = check_in(idle, now)
    return idle, left + offer


def _has_moved_on(state: AgentState, manifest: Manifest) -> bool:
    """The federation is not in the assignment's round. A manifest that was overtaken says nothing."""
    assignment, seen = state.assignment, state.seen
    assert assignment is not None
    if manifest.run != assignment.run:
        return True
    is_overtaken = seen is None or seen.run != manifest.run or manifest.incarnation <= seen.incarnation
    is_earlier = manifest.round < assignment.round and is_overtaken
    return manifest.done or (manifest.round != assignment.round and not is_earlier)


def _is_restarted(state: AgentState, manifest: Manifest) -> bool:
    seen = state.seen
    return seen is not None and seen.run == manifest.run and seen.incarnation != manifest.incarnation


def _note(state: AgentState, manifest: Manifest) -> AgentState:
    """Remember a manifest. A gateway that was started anew may no longer refuse the updates, and has other terms."""
    refusals, terms = None if _is_restarted(state, manifest) else state.refusals, state.terms
    if terms is not None and (terms.run, terms.incarnation) != (manifest.run, manifest.incarnation):
        terms = None
    return replace(state, seen=_seen_in(manifest), refusals=refusals, terms=terms)


def _seen_in(manifest: Manifest) -> Seen:
    return Seen(manifest.run, manifest.incarnation, manifest.round)


def _ignore(state: AgentState, _: Event, __: float) -> Step:
    return state, ()


TABLE: Table[AgentState, Action] = {
    (Phase.IDLE, Connected): row(_connect_idle),
    (Phase.IDLE, Disconnected): row(_disconnect),
    (Phase.IDLE, LinkDrained): row(_ignore),
    (Phase.IDLE, Ticked): row(_offer_when_due),
    (Phase.IDLE, Manifest): row(_see_when_idle),
    (Phase.IDLE, Assignment): row(take, Phase.FETCHING, Phase.TRAINING),
    (Phase.IDLE, Chunk): row(_ignore),
    (Phase.IDLE, Need): row(_ignore),
    (Phase.IDLE, Accepted): row(_ignore),
    (Phase.IDLE, Rejected): row(wait_for_work),
    (Phase.IDLE, TrainingDone): row(_ignore),
    (Phase.IDLE, TrainingFailed): row(_ignore),
    (Phase.IDLE, SharedTaken): row(_ignore),
    (Phase.IDLE, HeldChanged): row(note_held),
    (Phase.IDLE, PermissionChanged): row(note_permission),
    (Phase.IDLE, ConsentRefused): row(_ignore),
    (Phase.IDLE, ConsentChanged): row(note_consent),
    (Phase.FETCHING, Connected): row(_connect_fetching),
    (Phase.FETCHING, Disconnected): row(_disconnect),
    (Phase.FETCHING, LinkDrained): row(_ignore),
    (Phase.FETCHING, Ticked): row(ask_overdue),
    (Phase.FETCHING, Manifest): row(_see_when_fetching, Phase.IDLE),
    (Phase.FETCHING, Assignment): row(retake, Phase.IDLE, Phase.TRAINING),
    (Phase.FETCHING, Chunk): row(receive, Phase.IDLE, Phase.TRAINING),
    (Phase.FETCHING, Need): row(_ignore),
    (Phase.FETCHING, Accepted): row(_ignore),
    (Phase.FETCHING, Rejected): row(lose_round, Phase.IDLE),
    (Phase.FETCHING, TrainingDone): row(_ignore),
    (Phase.FETCHING, TrainingFailed): row(_ignore),
    (Phase.FETCHING, SharedTaken): row(_ignore),
    (Phase.FETCHING, HeldChanged): row(note_held),
    (Phase.FETCHING, PermissionChanged): row(note_permission),
    (Phase.FETCHING, ConsentRefused): row(_ignore),
    (Phase.FETCHING, ConsentChanged): row(note_consent),
    (Phase.TRAINING, Connected): row(_connect_training),
    (Phase.TRAINING, Disconnected): row(_disconnect),
    (Phase.TRAINING, LinkDrained): row(_ignore),
    (Phase.TRAINING, Ticked): row(_ask_when_overdue, Phase.IDLE),
    (Phase.TRAINING, Manifest): row(_see_when_training, Phase.IDLE),
    (Phase.TRAINING, Assignment): row(retake, Phase.IDLE, Phase.FETCHING),
    (Phase.TRAINING, Chunk): row(_ignore),
    (Phase.TRAINING, Need): row(_ignore),
    (Phase.TRAINING, Accepted): row(_ignore),
    (Phase.TRAINING, Rejected): row(lose_round, Phase.IDLE),
    (Phase.TRAINING, TrainingDone): row(submit, Phase.SUBMITTING),
    (Phase.TRAINING, TrainingFailed): row(fail, Phase.IDLE),
    (Phase.TRAINING, SharedTaken): row(_ignore),
    (Phase.TRAINING, HeldChanged): row(note_held),
    (Phase.TRAINING, PermissionChanged): row(note_permission),
    (Phase.TRAINING, ConsentRefused): row(withhold_training, Phase.IDLE),
    (Phase.TRAINING, ConsentChanged): row(withdraw_consent, Phase.IDLE),
    (Phase.SUBMITTING, Connected): row(_connect_submitting),
    (Phase.SUBMITTING, Disconnected): row(_disconnect),
    (Phase.SUBMITTING, LinkDrained): row(serve_on),
    (Phase.SUBMITTING, Ticked): row(submit_again),
    (Phase.SUBMITTING, Manifest): row(_see_when_submitting),
    (Phase.SUBMITTING, Assignment): row(take_next, Phase.IDLE, Phase.FETCHING, Phase.TRAINING),
    (Phase.SUBMITTING, Chunk): row(_ignore),
    (Phase.SUBMITTING, Need): row(serve_missing),
    (Phase.SUBMITTING, Accepted): row(accepted, Phase.IDLE),
    (Phase.SUBMITTING, Rejected): row(refused, Phase.IDLE),
    (Phase.SUBMITTING, TrainingDone): row(_ignore),
    (Phase.SUBMITTING, TrainingFailed): row(_ignore),
    (Phase.SUBMITTING, SharedTaken): row(submit_shared),
    (Phase.SUBMITTING, HeldChanged): row(note_held),
    (Phase.SUBMITTING, PermissionChanged): row(note_permission),
    (Phase.SUBMITTING, ConsentRefused): row(_ignore),
    (Phase.SUBMITTING, ConsentChanged): row(note_consent),
}

check_complete(TABLE, Phase, (*get_args(OwnEvent), Manifest, *DOWNLINK.values()))
