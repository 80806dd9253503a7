"""The federation's rounds as a pure state machine: (state, event, now) -> (state, actions).

::

                 enough agents                all accepted, or deadline and quorum
      GATHERING ───────────────► TRAINING ────────────────────────────────────────► MERGING ──► DONE
          ▲                                                                            │
          └──────────────────────────────── Merged ────────────────────────────────────┘

An update is accepted once the shell has made it durable (`UpdateStored`). Nothing merges while an update is on its
way to the disk, so what was accepted is merged. Every message may come twice, late and in any order. Messages
from agents that make no sense raise `ProtocolError` and change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from aggregator.round_state import (
    Action,
    BookCohort,
    Connected,
    Event,
    GiveUp,
    Merge,
    Merged,
    Model,
    Phase,
    Plan,
    Publish,
    RoundState,
    Said,
    Send,
    SendChunk,
    Step,
    StoreUpdate,
    Ticked,
    UpdateRefused,
    UpdateStored,
    Upload,
)
from fedprune.errors import ProtocolError
from fedprune.model.randomness import Keyed
from fedprune.wire.messages import (
    Accepted,
    Assignment,
    CheckIn,
    Chunk,
    Failed,
    Manifest,
    Need,
    Reason,
    Rejected,
    Submit,
)
from fedprune.wire.transfer import Incoming, chunk_count, unpack_bitmap
from fedprune.wire.transitions import Table, transition

_V = TypeVar("_V")

GATHER_CHUNK_REQUESTS_S = 0.1
"""How long requests for chunks are collected at most, so that what several agents lack is broadcast once."""

RETRY_AFTER_S = 30.0
"""When an agent without work is told to check in again. Work comes to it unasked; this is for lost messages."""


def resume(
    plan: Plan,
    model: Model,
    round_: int,
    *,
    assigned: frozenset[str],
    accepted: Mapping[str, bytes],
    last_accepted: Mapping[str, bytes],
    refused: Mapping[str, bytes],
) -> RoundState:
    """The state of a federation that starts, or goes on with the round it was in, from what the book says."""
    unfinished = Phase.TRAINING if assigned else Phase.GATHERING
    phase = Phase.DONE if round_ >= plan.rounds else unfinished
    return RoundState(
        plan,
        round_,
        model,
        phase,
        assigned=assigned,
        accepted=dict(accepted),
        last_accepted=dict(last_accepted),
        refused=dict(refused),
    )


def step(state: RoundState, event: Event, now: float) -> Step:
    """One transition. `now` is monotonic seconds."""
    return transition(_TABLE, state.phase, event)(state, event, now)


def wake_at(state: RoundState) -> float | None:
    """When a `Ticked` is due."""
    alarms = [alarm for alarm in (state.deadline, state.serve_at) if alarm is not None]
    return min(alarms, default=None)


# Starting, and time


def _start(state: RoundState, _: Connected, now: float) -> Step:
    wait = state.plan.gather_s if state.phase is Phase.GATHERING else state.plan.deadline_s
    if state.deadline is None:
        state = replace(state, deadline=now + wait)
    state, actions = _merge_if_complete(state)
    return state, (Publish(_manifest(state)), *actions)


def _announce(state: RoundState, _: Connected, __: float) -> Step:
    return state, (Publish(_manifest(state)),)


def _tick_gathering(state: RoundState, _: Ticked, now: float) -> Step:
    state, served = _serve(state, now)
    if state.deadline is None or now < state.deadline:
        return state, served
    if len(state.waiting(now)) >= state.plan.quorum:
        state, opened = _open(state, now)
        return state, served + opened
    return replace(state, deadline=now + state.plan.gather_s), served


def _tick_training(state: RoundState, _: Ticked, now: float) -> Step:
    state, served = _serve(state, now)
    if state.deadline is None or now < state.deadline:
        return state, served
    if len(state.accepted) >= state.plan.quorum:
        state, actions = _close(state)
    elif not state.accepted and len(state.failed) >= state.plan.cohort:
        actions = (GiveUp(len(state.failed)),)
    else:  # without a quorum the round stays open: whoever failed may try again, others take silent agents' places
        state = replace(state, deadline=now + state.plan.deadline_s, failed=frozenset())
        state, actions = _draft(state, state.waiting(now), state.plan.cohort - len(state.accepted), now)
    return state, served + actions


# Messages from agents


def _hear_gathering(state: RoundState, said: Said, now: float) -> Step:
    match said.message:
        case CheckIn():
            state = _hear(state, said.agent, now)
            if len(state.waiting(now)) >= state.plan.cohort:
                return _open(state, now)
            return state, (Send(said.agent, _no_work()),)
        case Submit() as submit:
            return _answer_outside_round(state, said.agent, submit)
    return state, ()


def _hear_training(state: RoundState, said: Said, now: float) -> Step:
    agent = said.agent
    match said.message:
        case CheckIn():
            return _check_in(state, agent, now)
        case Need() as need:
            return _request(state, agent, need, now)
        case Submit() as submit:
            return _take_submit(state, agent, submit, now)
        case Chunk() as chunk:
            return _take_chunk(state, agent, chunk)
        case Failed() as failed:
            return _drop(state, agent, failed)


def _hear_merging(state: RoundState, said: Said, now: float) -> Step:
    match said.message:
        case CheckIn():
            return _hear(state, said.agent, now), (Send(said.agent, _no_work()),)
        case Submit() as submit:
            return _answer_outside_round(state, said.agent, submit)
    return state, ()


def _hear_done(state: RoundState, said: Said, _: float) -> Step:
    match said.message:
        case CheckIn():
            return state, (Send(said.agent, Rejected(reason=Reason.FINISHED, retry_after=RETRY_AFTER_S)),)
        case Submit() as submit:
            return _answer_outside_round(state, said.agent, submit)
    return state, ()


def _hear(state: RoundState, agent: str, now: float) -> RoundState:
    return replace(state, present={**state.present, agent: now})


def _check_in(state: RoundState, agent: str, now: float) -> Step:
    if agent in state.missing:
        return state, (Send(agent, _assignment(state, now)),)
    state = _hear(state, agent, now)
    state, actions = _draft(state, frozenset({agent}), state.plan.cohort - len(state.assigned), now)
    return state, actions or (Send(agent, _no_work()),)


def _request(state: RoundState, agent: str, need: Need, now: float) -> Step:
    contents = {content.digest: content for content in (state.model.content, state.plan.task)}
    if agent not in state.assigned or need.digest not in contents:
        return state, (Send(agent, _no_work()),)
    content = contents[need.digest]
    requests = dict(state.requests)
    for index in unpack_bitmap(need.missing, chunk_count(content.size)):
        requests[content, index] = requests.get((content, index), frozenset()) | {agent}
    serve_at = state.serve_at if state.serve_at is not None else now + GATHER_CHUNK_REQUESTS_S
    state = replace(state, requests=requests, serve_at=serve_at)
    everybody_asked = state.missing <= frozenset[str]().union(*requests.values())
    return _serve(state, serve_at) if everybody_asked else (state, ())


def _take_submit(state: RoundState, agent: str, submit: Submit, now: float) -> Step:
    if not _is_current(state, submit) or agent in state.accepted:
        state, answer = _answer_outside_round(state, agent, submit)
        # While its update was pending the agent took no assignment.
        return state, answer + ((Send(agent, _assignment(state, now)),) if agent in state.missing else ())
    if state.refused.get(agent) == submit.update.digest or agent not in state.assigned | state.failed:
        return _answer_outside_round(state, agent, submit)
    if agent in state.failed:  # it failed, tried again, and can after all
        state = replace(state, assigned=state.assigned | {agent}, failed=state.failed - {agent})
        state, actions = _take_submit(state, agent, submit, now)
        return state, (BookCohort(state.round, state.assigned), *actions)
    if agent in state.storing:
        return state, ()
    if submit.update.size > state.plan.max_update_bytes:
        return _refuse_update(state, agent, submit, f"over {state.plan.max_update_bytes} bytes")
    upload = state.uploads.get(agent)
    if upload is None or upload.submit.update != submit.update:
        return replace(state, uploads={**state.uploads, agent: Upload(submit, Incoming(submit.update))}), ()
    return state, (Send(agent, Need(digest=submit.update.digest, missing=upload.incoming.missing)),)


def _take_chunk(state: RoundState, agent: str, chunk: Chunk) -> Step:
    upload = state.uploads.get(agent)
    if upload is None or agent in state.storing:
        return state, ()
    incoming = upload.incoming.add(chunk)
    if not incoming.is_complete:
        return replace(state, uploads={**state.uploads, agent: replace(upload, incoming=incoming)}), ()
    try:
        blob = incoming.assemble()
    except ProtocolError:  # a chunk was not the agent's: all are asked for when it asks about its update
        afresh = replace(upload, incoming=Incoming(upload.submit.update))
        return replace(state, uploads={**state.uploads, agent: afresh}), ()
    return replace(state, storing=state.storing | {agent}), (StoreUpdate(agent, upload.submit, blob),)


def _drop(state: RoundState, agent: str, failed: Failed) -> Step:
    if failed.run != state.plan.run or failed.round != state.round or agent not in state.missing - state.storing:
        return state, ()
    state = replace(
        state,
        assigned=state.assigned - {agent},
        present=_without(state.present, agent),
        failed=state.failed | {agent},
        uploads=_without(state.uploads, agent),
    )
    return _merge_if_complete(state)


def _answer_outside_round(state: RoundState, agent: str, submit: Submit) -> Step:
    """Say what the book says of an update that is not to be taken now."""
    digest = submit.update.digest
    if submit.run != state.plan.run:
        return state, (Send(agent, _reject(submit, Reason.INVALID, "of another run")),)
    if digest in (state.accepted.get(agent), state.last_accepted.get(agent)):
        return state, (Send(agent, _accepted(state, submit.round, digest)),)
    if digest == state.refused.get(agent):
        return state, (Send(agent, _reject(submit, Reason.INVALID, "refused before")),)
    if _is_current(state, submit) and agent in state.accepted:
        return state, (Send(agent, _reject(submit, Reason.INVALID, "another update of this round was accepted")),)
    if submit.round > state.round:
        return state, (Send(agent, _reject(submit, Reason.INVALID, f"of round {submit.round}, not yet begun")),)
    late = "not in this round's cohort" if _is_current(state, submit) else f"round {submit.round} is over"
    return state, (Send(agent, _reject(submit, Reason.LATE, late)),)


# Updates on their way to the disk


def _accept(state: RoundState, event: UpdateStored, now: float) -> Step:
    agent = event.agent
    submit = state.uploads[agent].submit
    state = replace(
        state,
        accepted={**state.accepted, agent: submit.update.digest},
        storing=state.storing - {agent},
        uploads=_without(state.uploads, agent),
    )
    state = _hear(state, agent, now)
    merging, actions = _merge_if_complete(state)
    return merging, (Send(agent, _accepted(state, submit.round, submit.update.digest)), *actions)


def _refuse(state: RoundState, event: UpdateRefused, _: float) -> Step:
    submit = state.uploads[event.agent].submit
    return _refuse_update(replace(state, storing=state.storing - {event.agent}), event.agent, submit, event.why)


def _refuse_update(state: RoundState, agent: str, submit: Submit, why: str) -> Step:
    """Reject an update for good, and wait for its agent no longer."""
    state = replace(state, refused={**state.refused, agent: submit.update.digest})
    state, actions = _drop(state, agent, Failed(run=submit.run, round=submit.round, why=f"{agent}'s update: {why}"))
    return state, (Send(agent, _reject(submit, Reason.INVALID, why)), *actions)


# Opening and closing a round


def _open(state: RoundState, now: float) -> Step:
    """Select the cohort and assign it."""
    waiting = state.waiting(now)
    present = {agent: state.present[agent] for agent in waiting}
    state = replace(state, phase=Phase.TRAINING, present=present, deadline=now + state.plan.deadline_s)
    drafted, actions = _draft(state, waiting, state.plan.cohort, now)
    return drafted, (Publish(_manifest(state)), *actions)


def _draft(state: RoundState, candidates: frozenset[str], room: int, now: float) -> Step:
    """Assign `room` of `candidates`, chosen at random. Past a deadline the places of silent agents count as room.

    The cohort grows then, but the silent agents' updates are still welcome until the round is merged.
    """
    eligible = sorted(candidates - state.assigned - state.failed)
    keyed = Keyed(state.plan.seed, "cohort", state.round, len(state.assigned))
    drafted = frozenset(keyed.sample(eligible, min(len(eligible), max(0, room))))
    if not drafted:
        return state, ()
    present = {agent: heard_at for agent, heard_at in state.present.items() if agent not in drafted}
    state = replace(state, assigned=state.assigned | drafted, present=present)
    assignment = _assignment(state, now)
    sends = tuple(Send(agent, assignment) for agent in sorted(drafted))
    return state, (BookCohort(state.round, state.assigned), *sends)


def _merge_if_complete(state: RoundState) -> Step:
    """Merge once the cohort is full, or nobody is missing and the quorum is reached."""
    plan, accepted = state.plan, len(state.accepted)
    is_complete = accepted >= plan.cohort or (accepted >= plan.quorum and not state.missing)
    return _close(state) if state.phase is Phase.TRAINING and is_complete else (state, ())


def _close(state: RoundState) -> Step:
    """Take no more updates; merge as soon as none is on its way to the disk."""
    if state.storing:
        return state, ()
    return replace(state, phase=Phase.MERGING, uploads={}, requests={}, serve_at=None, deadline=None), (
        Merge(state.round),
    )


def _next_round(state: RoundState, merged: Merged, now: float) -> Step:
    state = replace(
        state,
        round=state.round + 1,
        model=merged.model,
        phase=Phase.GATHERING,
        assigned=frozenset(),
        failed=frozenset(),
        accepted={},
        last_accepted={**state.last_accepted, **state.accepted},
        deadline=now + state.plan.gather_s,
    )
    if state.round >= state.plan.rounds:
        state = replace(state, phase=Phase.DONE, deadline=None)
        return state, (Publish(_manifest(state)),)
    if len(state.waiting(now)) >= state.plan.cohort:
        return _open(state, now)
    return state, (Publish(_manifest(state)),)


def _serve(state: RoundState, now: float) -> Step:
    """Send the chunks asked for: to the one agent that lacks it, or to all that listen."""
    if state.serve_at is None or now < state.serve_at:
        return state, ()
    chunks = tuple(
        SendChunk(content, index, next(iter(agents)) if len(agents) == 1 else None)
        for (content, index), agents in state.requests.items()
    )
    return replace(state, requests={}, serve_at=None), chunks


# Messages


def _manifest(state: RoundState) -> Manifest:
    plan = state.plan
    return Manifest(
        run=plan.run,
        incarnation=plan.incarnation,
        round=state.round,
        rounds=plan.rounds,
        task=plan.task,
        model=state.model.content,
        done=state.phase is Phase.DONE,
    )


def _assignment(state: RoundState, now: float) -> Assignment:
    plan = state.plan
    return Assignment(
        run=plan.run,
        round=state.round,
        task=plan.task,
        model=state.model.content,
        weights_digest=state.model.weights_digest,
        schedule_step=state.round * plan.steps_per_round,
        seed=plan.seed,
        update_values=plan.update_values,
        seconds_left=0.0 if state.deadline is None else max(0.0, state.deadline - now),
    )


def _accepted(state: RoundState, round_: int, digest: bytes) -> Accepted:
    return Accepted(run=state.plan.run, round=round_, digest=digest)


def _no_work() -> Rejected:
    return Rejected(reason=Reason.NOT_SELECTED, retry_after=RETRY_AFTER_S)


def _reject(submit: Submit, reason: Reason, detail: str) -> Rejected:
    return Rejected(reason=reason, detail=detail[:1000], digest=submit.update.digest)


def _is_current(state: RoundState, submit: Submit) -> bool:
    return submit.run == state.plan.run and submit.round == state.round


def _without(values: Mapping[str, _V], agent: str) -> dict[str, _V]:
    return {name: value for name, value in values.items() if name != agent}


_TABLE: Table[RoundState, Action] = {
    (Phase.GATHERING, Connected): _start,
    (Phase.GATHERING, Said): _hear_gathering,
    (Phase.GATHERING, Ticked): _tick_gathering,
    (Phase.TRAINING, Connected): _start,
    (Phase.TRAINING, Said): _hear_training,
    (Phase.TRAINING, UpdateStored): _accept,
    (Phase.TRAINING, UpdateRefused): _refuse,
    (Phase.TRAINING, Ticked): _tick_training,
    (Phase.MERGING, Connected): _announce,
    (Phase.MERGING, Said): _hear_merging,
    (Phase.MERGING, Merged): _next_round,
    (Phase.MERGING, Ticked): lambda state, _, __: (state, ()),
    (Phase.DONE, Connected): _announce,
    (Phase.DONE, Said): _hear_done,
    (Phase.DONE, Ticked): lambda state, _, __: (state, ()),
}
