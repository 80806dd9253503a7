"""The agent's transitions where its device's owner does not consent: it says so once, and offers itself no more."""

from __future__ import annotations

from dataclasses import replace

from edge_agent.agent_offering import check_in, failed, leave_round, wait
from edge_agent.agent_state import (
    IDLE_CHECK_IN_S,
    AgentState,
    Phase,
    Send,
    Step,
    Warn,
)
from edge_agent.consent import NO_CONSENT, why_too_many_bytes
from edge_agent.consent_events import ConsentChanged, ConsentRefusal, ConsentRefused
from fedprune.wire.messages import Assignment


def refusal_of(state: AgentState, assignment: Assignment, fetched: int) -> ConsentRefusal | None:
    """The refusal of an assignment before anything is fetched: its task was refused before, or it moves too much."""
    known = state.refusal
    if known is not None and known.task == assignment.task.digest:
        return replace(known, run=assignment.run, incarnation=assignment.incarnation)
    why = why_too_many_bytes(fetched, 0, state.limits.max_round_bytes)
    return ConsentRefusal(assignment.run, assignment.incarnation, None, why) if why else None


def withhold(state: AgentState, assignment: Assignment, refusal: ConsentRefusal, now: float) -> Step:
    """Tell the gateway that the idle agent will not do it, and its owner why. It offers itself again once its owner
    consents to something else, or the gateway is started anew."""
    state = wait(replace(state, refusal=refusal), IDLE_CHECK_IN_S, now)
    return state, (
        Send(failed(assignment, NO_CONSENT, rests=True)),
        Warn(f"round {assignment.round + 1}: {refusal.why}"),
    )


def withhold_training(state: AgentState, event: ConsentRefused, now: float) -> Step:
    """The round is refused before it is trained, or before its update is sent. If the owner's word came meanwhile, the
    agent asks for the round anew, to judge by that."""
    if not state.awaits_training(event.number):
        return state, ()
    assignment = state.assignment
    assert assignment is not None
    idle = replace(state, phase=Phase.IDLE, assignment=None, attempt=0, again_at=None, begun_at=None)
    if state.consent_at >= state.trained_since:
        return check_in(idle, now)
    task = assignment.task.digest if event.of_task else None
    return withhold(idle, assignment, ConsentRefusal(assignment.run, assignment.incarnation, task, event.why), now)


def note_consent(state: AgentState, _: ConsentChanged, now: float) -> Step:
    """All is judged anew; an idle agent offers itself for that."""
    state = replace(state, refusal=None, consent_at=now)
    return check_in(state, now) if state.phase is Phase.IDLE and state.connected else (state, ())


def withdraw_consent(state: AgentState, event: ConsentChanged, now: float) -> Step:
    """End the training of a task whose approval was taken back. The next assignment is judged before it is trained."""
    assignment = state.assignment
    assert assignment is not None
    state, _ = note_consent(state, event, now)
    if assignment.task.digest.hex() not in event.withdrawn:
        return state, ()
    idle, left = leave_round(state, now)
    said = (
        Send(failed(assignment, NO_CONSENT, rests=True)),
        Warn(f"round {assignment.round + 1}: consent was withdrawn"),
    )
    return wait(idle, IDLE_CHECK_IN_S, now), left + said
