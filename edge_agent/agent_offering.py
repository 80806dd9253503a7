"""The agent's transitions when it offers itself, and while there is no work for it."""

from __future__ import annotations

from dataclasses import replace

from edge_agent.agent_state import (
    IDLE_CHECK_IN_S,
    LONGEST_WAIT_S,
    NOTHING,
    RETRY_S,
    Action,
    AgentState,
    HeldChanged,
    PermissionChanged,
    Phase,
    Send,
    Step,
    StopTraining,
    Unfollow,
    Warn,
    WarnUnanswered,
)
from edge_agent.held_model import NONE_HELD
from fedprune.system.paths import path_text
from fedprune.wire.messages import Assignment, Failed, Reason, Rejected, kind_of
from fedprune.wire.silence import is_worth_saying
from fedprune.wire.transitions import backoff


def check_in(state: AgentState, now: float) -> Step:
    """Offer the idle agent, and do so again after a while; where its device does not permit training, or its owner does
    not consent to it, say nothing."""
    if state.waits_for or state.is_refusing:
        return replace(state, again_at=None), ()
    offer, times = Send(state.offer), state.unanswered
    state = wait(replace(state, unanswered=times + 1), IDLE_CHECK_IN_S, now)
    return state, (offer, WarnUnanswered(kind_of(offer.message), times, state.seen is not None)) if is_worth_saying(
        times
    ) else (offer,)


def wait(state: AgentState, seconds: float, now: float) -> AgentState:
    """Check in again after about so many seconds."""
    return replace(state, again_at=now + backoff(seconds, 0, state.name))


def wait_as_told(state: AgentState, rejected: Rejected, now: float) -> AgentState:
    return wait(state, min(max(rejected.retry_after, RETRY_S), LONGEST_WAIT_S), now)


def is_new_ticket(state: AgentState, rejected: Rejected) -> bool:
    """Such a rejection asks only that the agent show the ticket."""
    return rejected.ticket not in (b"", state.ticket)


def keep_ticket(state: AgentState, rejected: Rejected, now: float) -> AgentState:
    return replace(state, ticket=rejected.ticket, ticket_at=now) if is_new_ticket(state, rejected) else state


def note_held(state: AgentState, event: HeldChanged, _: float) -> Step:
    """The next check-in says what is held by now. Whatever that is, its digest was right: no whole model is wanted."""
    wants_whole = state.wants_whole and event.held == NONE_HELD
    return replace(state, held=event.held, wants_whole=wants_whole), ()


def wait_for_work(state: AgentState, rejected: Rejected, now: float) -> Step:
    """Wait as told. A new ticket is shown at once, or soon if the last one came just before, as where a federation
    begins when a short one ends."""
    if is_new_ticket(state, rejected):
        came_just_before = now - state.ticket_at < RETRY_S
        state = keep_ticket(state, rejected, now)
        return (_check_in_soon(state, now), ()) if came_just_before else check_in(state, now)
    if rejected.digest is not None:
        return state, ()
    return wait_as_told(state, rejected, now), warn_unreadable(rejected)


def _check_in_soon(state: AgentState, now: float) -> AgentState:
    """After about `RETRY_S`, which differs from agent to agent: all of a fleet may be given new tickets. It doubles
    each time until there is work, and delays no check-in: whoever gives ever new tickets makes no flood of them."""
    soon = now + backoff(RETRY_S, state.attempt, state.name)
    again_at = soon if state.again_at is None else min(soon, state.again_at)
    return replace(state, again_at=again_at, attempt=state.attempt + 1)


def lose_round(state: AgentState, rejected: Rejected, now: float) -> Step:
    """The gateway does without the agent: stop what is done for the round.

    What was unreadable may be a stranger's. What gives a ticket is about no round, and old ones are let pass.
    """
    if rejected.ticket:
        return keep_ticket(state, rejected, now), ()
    if rejected.digest is not None or rejected.reason is Reason.UNREADABLE:
        return state, warn_unreadable(rejected)
    idle, left = leave_round(state, now)
    idle = wait_as_told(idle, rejected, now)
    # Topics may overtake each other, so the word may be of before the work: then it keeps its place by asking soon.
    return _check_in_soon(idle, now) if rejected.reason is Reason.NOT_SELECTED else idle, left


def note_permission(state: AgentState, event: PermissionChanged, now: float) -> Step:
    """Wait from now on, or offer the idle agent at once. A training that was held for a while began later."""
    was_held = bool(state.waits_for) and not event.why_not
    if was_held and state.phase is Phase.TRAINING:
        state = replace(state, trained_since=state.trained_since + now - max(state.held_since, state.trained_since))
    state = replace(state, waits_for=event.why_not, held_since=state.held_since if state.waits_for else now)
    return check_in(state, now) if was_held and state.phase is Phase.IDLE and state.connected else (state, ())


def leave_round(state: AgentState, now: float) -> Step:
    """Go idle, without the assignment, what was fetched for it, and its training.

    A training that is stopped after its deadline tells how long one takes at least.
    """
    left: tuple[Action, ...] = tuple(Unfollow(digest) for digest in state.receiving)
    if state.phase is Phase.TRAINING:
        left += (StopTraining(),)
        if now >= state.deadline:
            state = replace(state, durations=state.durations_at(now))
    idle = replace(state, phase=Phase.IDLE, assignment=None, receiving=NOTHING, attempt=0, again_at=None, begun_at=None)
    return idle, left


def failed(assignment: Assignment, why: str, *, rests: bool = False) -> Failed:
    """The word to the gateway that this round will not be done."""
    return Failed(run=assignment.run, round=assignment.round, why=path_text(why)[:1000], rests=rests)


def warn_unreadable(rejected: Rejected) -> tuple[Action, ...]:
    if rejected.reason is not Reason.UNREADABLE:
        return ()
    return (Warn(f"the gateway cannot read what this agent says ({rejected.detail}); do both run the same version?"),)
