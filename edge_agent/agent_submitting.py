"""The agent's transitions from a trained update to its fate."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import msgspec

from edge_agent.agent_fetching import take
from edge_agent.agent_offering import check_in, keep_ticket, wait, wait_as_told, warn_unreadable
from edge_agent.agent_state import (
    IDLE_CHECK_IN_S,
    LONGEST_WAIT_S,
    RETRY_S,
    AgentState,
    LinkDrained,
    Outcome,
    Phase,
    Refusals,
    Send,
    SendUpdate,
    Settle,
    Step,
    SubmitWhole,
    Ticked,
    TrainingDone,
    Warn,
    WarnUnanswered,
)
from edge_agent.history_events import SendShared, SharedTaken
from fedprune.wire.examples import MOST_CHECKED_IN
from fedprune.wire.messages import (
    MAX_INLINE_BYTES,
    Accepted,
    Assignment,
    Content,
    Need,
    Reason,
    Rejected,
    Submit,
    kind_of,
    tag_of,
)
from fedprune.wire.serving import STALLED_S, Serving
from fedprune.wire.silence import is_worth_saying
from fedprune.wire.transfer import CHUNK_SIZES, FIRST_WINDOW, chunk_count, need_of
from fedprune.wire.transitions import backoff

ANSWER_S = 6.0
"""Seconds that an answer may take at first: an acceptance waits for the next round's work, which it is said with."""

_GATEWAY = "gateway"
"""The only peer that asks for chunks of an update."""

_SUBMITS_BEFORE_WORD = 6
"""Unanswered submits before people are told, two minutes: a gateway may be merging meanwhile."""


def offered(state: AgentState, update: Content) -> Serving:
    """Serving of an update, in chunks no larger than the broker is known to take."""
    return Serving(chunk_bytes=state.link.chunk_bytes).offer(update)


def submit(state: AgentState, event: TrainingDone, now: float) -> Step:
    """Submit the update: a small one whole, else with as many of its chunks as the gateway would ask for first.

    The agent checks in with the number of its examples from now on: before, it knew only the most that there can be.
    """
    if not state.awaits_training(event.number):
        return state, ()
    state = replace(
        state,
        phase=Phase.SUBMITTING,
        check_in=msgspec.structs.replace(state.check_in, examples=min(event.submit.examples, MOST_CHECKED_IN)),
        assignment=None,
        durations=state.durations_at(now),
        submitted_to=_gateway_seen(state),
        begun_at=None,
    )
    return _offer(state, event.submit, now)


def submit_shared(state: AgentState, event: SharedTaken, now: float) -> Step:
    """Submit the pending update once more, as it is coded without a history."""
    return _offer(state, event.submit, now)


def _offer(state: AgentState, pending: Submit, now: float) -> Step:
    update = pending.content
    serving, most_inline = offered(state, update), min(MAX_INLINE_BYTES, state.link.chunk_bytes)
    is_whole = state.connected and update.size <= most_inline
    if state.connected and not is_whole:
        window = range(min(FIRST_WINDOW, chunk_count(update.size, CHUNK_SIZES[0])))
        serving = serving.ask(_GATEWAY, need_of(update, window, CHUNK_SIZES[0]), now, expected=1)
    state, said = say_submit(replace(state, pending=pending, serving=serving, attempt=0), now)
    if is_whole:
        return state, (SubmitWhole(),)
    state, chunks = _serve(state, now)
    return state, said + chunks


def say_submit(state: AgentState, now: float) -> Step:
    """Ask the gateway's book about the pending update, and do so again after a while."""
    assert state.pending is not None
    again_at = _ask_at(state, now)
    pending, times = state.pending, state.unanswered
    state = replace(state, again_at=again_at, unanswered=times + 1)
    if times < _SUBMITS_BEFORE_WORD or not is_worth_saying(times):
        return state, (Send(pending),)
    return state, (Send(pending), WarnUnanswered(kind_of(pending), times, state.seen is not None))


def serve_missing(state: AgentState, need: Need, now: float) -> Step:
    """Send what the gateway lacks. Raises `ProtocolError` if that cannot be chunks of the update."""
    assert state.pending is not None
    if need.digest != state.pending.content.digest:
        return state, ()
    serving = state.serving.ask(_GATEWAY, need, now, expected=1)
    state = replace(state, serving=serving, link=state.link.cut(need.chunk_bytes))
    return _serve(replace(state, attempt=0) if any(need.missing) else state, now)


def serve_on(state: AgentState, _: LinkDrained, now: float) -> Step:
    """The link has sent the last burst: send the next one, or wait for the gateway's answer."""
    if state.serving.burst_at is None:
        return state, ()
    state, chunks = _serve(replace(state, serving=state.serving.drained()), now)
    if chunks:
        return state, chunks
    return replace(state, again_at=_ask_at(state, now)), ()


def submit_again(state: AgentState, _: Ticked, now: float) -> Step:
    """Say again what is unanswered, but not while chunks are on their way."""
    if not state.connected:
        return state, ()
    state, chunks = _serve(state, now)
    if state.again_at is None or now < state.again_at:
        return state, chunks
    state, said = say_submit(replace(state, attempt=state.attempt + 1), now)
    return state, chunks + said


def take_next(state: AgentState, assignment: Assignment, now: float) -> Step:
    """The next work, if it says that the pending update is accepted. Else that comes first, and the work again."""
    pending = state.pending
    if pending is None or (assignment.run, assignment.accepted) != (pending.run, tag_of(pending.content.digest)):
        return state, ()
    state, settled = _settle(state, Outcome.ACCEPTED)
    state, actions = take(state, assignment, now)
    return state, settled + actions


def accepted(state: AgentState, answer: Accepted, now: float) -> Step:
    if state.pending is None or answer.update != tag_of(state.pending.content.digest):
        return state, ()
    is_known = _gateway_seen(state) == state.submitted_to
    state, actions = _settle(state, Outcome.ACCEPTED)
    if is_known:
        return wait(state, IDLE_CHECK_IN_S, now), actions
    # Only its book told it of the update: it has not heard yet that the agent waits for work.
    state, offer = check_in(state, now)
    return state, actions + offer


def refused(state: AgentState, rejected: Rejected, now: float) -> Step:
    """A late update is settled. An invalid one is discarded, and its round may be tried once more.

    One that cannot be read is kept: it can be when one side was upgraded. One by another history than the gateway's is
    sent without.
    """
    state = keep_ticket(state, rejected, now)
    if rejected.reason is Reason.UNREADABLE and rejected.digest in (None, _pending_digest(state)):
        return wait(state, LONGEST_WAIT_S, now), warn_unreadable(rejected)
    if not _is_about_pending(state, rejected.digest):
        return state, ()
    if rejected.reason is Reason.OTHER_HISTORY:
        return state, (SendShared(),)
    if rejected.reason is Reason.LATE:
        state, actions = _settle(state, Outcome.LATE)
        state, offer = check_in(state, now)
        return state, actions + offer
    if rejected.reason is not Reason.INVALID:
        return state, ()
    return _discard(state, rejected, now)


def _discard(state: AgentState, rejected: Rejected, now: float) -> Step:
    pending, refusals, why = state.pending, state.refusals, rejected.detail or "no reason given"
    assert pending is not None
    is_second = refusals is not None and (refusals.run, refusals.round) == (pending.run, pending.round)
    count = refusals.count + 1 if is_second and refusals is not None else 1
    warning = Warn(f"round {pending.round + 1}: the gateway refused the update: {why}")
    state = replace(
        state,
        phase=Phase.IDLE,
        pending=None,
        serving=Serving(),
        refusals=Refusals(pending.run, pending.round, count, why),
        attempt=0,
    )
    return wait_as_told(state, rejected, now), (Settle(Outcome.INVALID), warning)


def _ask_at(state: AgentState, now: float) -> float:
    return now + max(ANSWER_S, backoff(RETRY_S, state.attempt, state.name))


def _serve(state: AgentState, now: float) -> Step:
    """Send the next chunks, if it is time. Until the link has sent them nothing needs to be said again."""
    serving, chunks = state.serving.serve(now)
    if not chunks:
        return replace(state, serving=serving), ()
    state = replace(state, serving=serving, again_at=now + STALLED_S)
    sizes = groupby(chunks, key=lambda chunk: chunk.chunk_bytes)
    return state, tuple(SendUpdate(tuple(chunk.index for chunk in of_size), size) for size, of_size in sizes)


def _settle(state: AgentState, outcome: Outcome) -> Step:
    pending = state.pending
    assert pending is not None
    done = state.done.with_round(pending.run, pending.round)
    state = replace(state, phase=Phase.IDLE, done=done, pending=None, serving=Serving(), attempt=0)
    return state, (Settle(outcome),)


def _gateway_seen(state: AgentState) -> tuple[str, int] | None:
    return None if state.seen is None else (state.seen.run, state.seen.incarnation)


def _pending_digest(state: AgentState) -> bytes | None:
    return None if state.pending is None else state.pending.content.digest


def _is_about_pending(state: AgentState, digest: bytes | None) -> bool:
    return digest is not None and digest == _pending_digest(state)
