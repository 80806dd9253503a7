"""The agent's transitions from an assignment over its contents to the training."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import msgspec

from edge_agent.agent_consent import refusal_of, withhold
from edge_agent.agent_offering import check_in, failed, leave_round, wait
from edge_agent.agent_state import (
    BEGUN_S,
    IDLE_CHECK_IN_S,
    MAX_REFUSALS,
    NOTHING,
    NOTHING_CAME,
    RETRY_S,
    Action,
    AgentState,
    Follow,
    KeepChunk,
    KeepTask,
    KnownTerms,
    Phase,
    Send,
    Step,
    Ticked,
    Train,
    TrainingFailed,
    Unfollow,
    Warn,
    WarnUnanswered,
)
from fedprune.errors import ProtocolError
from fedprune.wire.messages import Assignment, Chunk, Content, Need, kind_of
from fedprune.wire.silence import is_worth_saying
from fedprune.wire.transfer import FIRST_WINDOW, Receiving
from fedprune.wire.transitions import backoff

_HOPELESS = 2.0
"""A fetch that would take so many times the seconds that are left is given up: paces vary."""


def take(state: AgentState, assignment: Assignment, now: float) -> Step:
    """Fetch what an idle agent is assigned, or say why it cannot be done. Without its terms, ask for them."""
    state, complete = _completed(state, assignment)
    if complete is None:
        return check_in(state, now)
    assignment = complete
    if assignment.round <= state.done.of(assignment.run):
        return state, (Send(failed(assignment, "this agent is done with that round")),)
    why_not = state.waits_for or _why_sit_out(state, assignment) or _why_too_large(state, assignment)
    if why_not:
        return decline(state, assignment, why_not, now, rests=bool(state.waits_for))
    fetched = _bytes_to_fetch(state, assignment)
    refusal = refusal_of(state, assignment, fetched)
    if refusal is not None:
        return withhold(state, assignment, refusal, now)
    state, actions = _fetch(replace(state, refusal=None, fetched=fetched), assignment, now)
    return state, (*_tell_left_out(state, assignment), *actions)


def retake(state: AgentState, assignment: Assignment, now: float) -> Step:
    """An assignment while there is one: the same renews the deadline, a newer one replaces it."""
    current = state.assignment
    assert current is not None
    state, complete = _completed(state, assignment)
    if complete is None:
        return state, (Send(state.offer),)
    assignment = complete
    if _is_same_work(assignment, current):
        state = replace(state, deadline=now + assignment.seconds_left)
        return (await_deadline(state, now), ()) if state.phase is Phase.TRAINING else (state, ())
    is_old = assignment.run == current.run and assignment.round < current.round
    if is_old or assignment.round <= state.done.of(assignment.run):
        return state, ()
    idle, left = leave_round(state, now)
    state, actions = take(idle, assignment, now)
    return state, left + actions


def _completed(state: AgentState, assignment: Assignment) -> tuple[AgentState, Assignment | None]:
    """The assignment with its terms, which are remembered where it brings them; None if they are not known here."""
    gateway, known = (assignment.run, assignment.incarnation), state.terms
    if assignment.terms is not None:
        return replace(state, terms=KnownTerms(*gateway, assignment.terms)), assignment
    if known is None or (known.run, known.incarnation) != gateway:
        return replace(state, terms=None), None
    return state, msgspec.structs.replace(assignment, terms=known.terms)


def _is_same_work(assignment: Assignment, other: Assignment) -> bool:
    """What leads to the model may be something else by now: the agent says in between that it holds another one."""
    return (assignment.run, assignment.round, assignment.weights_digest) == (
        other.run,
        other.round,
        other.weights_digest,
    )


def decline(state: AgentState, assignment: Assignment, why: str, now: float, *, rests: bool = False) -> Step:
    """Say that the idle agent cannot do the round, so that nobody waits for it; `rests`: nothing is wrong."""
    warning = Warn(f"round {assignment.round + 1}: {why}")
    return wait(state, IDLE_CHECK_IN_S, now), (Send(failed(assignment, why, rests=rests)), warning)


def receive(state: AgentState, chunk: Chunk, now: float) -> Step:
    """Take a chunk. Raises `ProtocolError` if it cannot be one."""
    if chunk.digest not in state.receiving:
        return state, ()
    before = state.receiving[chunk.digest]
    receiving, need = before.add(chunk, now)
    told: tuple[Action, ...] = ()
    if receiving is not before and not receiving.is_complete:
        told = (KeepChunk(before.content, chunk),)
    if receiving.is_complete:
        try:
            receiving.assemble()
        except ProtocolError as error:  # a chunk was not the gateway's: all of them come again
            told = (Warn(f"{error}: somebody between sends other chunks than the gateway; asking for all of it again"),)
            receiving, need = Receiving.begin(receiving.content, now, state.name, receiving.link)
    contents = MappingProxyType({**state.receiving, chunk.digest: receiving})
    state = replace(state, receiving=contents, link=receiving.link)
    if all(content.is_complete for content in contents.values()):
        return _train(state, now)
    why_not = _why_too_slow(state, receiving, now)
    if why_not:
        assignment = state.assignment
        assert assignment is not None
        idle, left = leave_round(state, now)
        idle, said = decline(idle, assignment, why_not, now, rests=True)
        return idle, left + said
    return state, told if need is None else (*told, Send(need))


def ask_overdue(state: AgentState, _: Ticked, now: float) -> Step:
    """Ask again for what did not come, in smaller chunks if those seem not to pass; and ask whether the agent is still
    assigned, which also shows that the gateway is there."""
    overdue = [digest for digest, content in state.receiving.items() if _is_overdue(content, now)]
    if not state.connected or not overdue:
        return state, ()
    contents, actions = dict(state.receiving), list[Action]()
    for digest in overdue:
        before = contents[digest]
        contents[digest], need = before.ask_again(now, is_heard=state.heard_at >= before.heard_at)
        actions += (Send(need), *_trouble(state, before, contents[digest], need))
    return replace(state, receiving=MappingProxyType(contents)), (*actions, Send(state.offer))


def ask_anew(state: AgentState, now: float) -> Step:
    """Ask again for all that is incomplete: what was under way is lost."""
    contents, asks = dict(state.receiving), list[Action]()
    for digest, content in state.receiving.items():
        if not content.is_complete:
            contents[digest], need = content.ask_anew(now)
            asks.append(Send(need))
    return replace(state, receiving=MappingProxyType(contents)), tuple(asks)


def _is_overdue(content: Receiving, now: float) -> bool:
    return not content.is_complete and now >= content.again_at


def _trouble(state: AgentState, before: Receiving, after: Receiving, need: Need) -> tuple[Action, ...]:
    """What people are to be told of a content that was asked for again."""
    asked, now_asked = before.link.chunk_bytes, after.link.chunk_bytes
    if now_asked < asked:
        return (
            Warn(
                f"no chunk of {asked} bytes comes, though the gateway answers: the broker may take no messages so "
                f"large; asking for chunks of {now_asked}"
            ),
        )
    if is_worth_saying(after.unanswered):
        return (WarnUnanswered(kind_of(need), after.unanswered, state.seen is not None, now_asked),)
    return ()


def await_deadline(state: AgentState, now: float) -> AgentState:
    """At the deadline, or when what is said now stays unanswered, ask whether the training is still wanted."""
    return replace(state, again_at=max(state.deadline, now + backoff(RETRY_S, state.attempt, state.name)))


def give_up_held(state: AgentState, now: float) -> Step:
    """The device has not permitted the training for too long: others can have the round."""
    assignment = state.assignment
    assert assignment is not None
    idle, left = leave_round(state, now)
    idle, said = decline(idle, assignment, f"held too long: {state.waits_for}", now, rests=True)
    return idle, left + said


def fail(state: AgentState, event: TrainingFailed, now: float) -> Step:
    """The training failed, unless it is one that was stopped. Where the model was not to be made of what is held, the
    agent asks for the whole one at once: it can still do the round."""
    if not state.awaits_training(event.number):
        return state, ()
    assert state.assignment is not None
    idle = replace(
        state,
        phase=Phase.IDLE,
        assignment=None,
        tasks=event.tasks,
        wants_whole=state.wants_whole or event.wants_whole,
        attempt=0,
        begun_at=None,
    )
    if event.wants_whole:
        idle, offer = check_in(idle, now)
        return idle, (Warn(f"round {state.assignment.round + 1}: {event.why}; it is fetched whole"), *offer)
    return wait(idle, IDLE_CHECK_IN_S, now), (Send(failed(state.assignment, event.why)),)


def _fetch(state: AgentState, assignment: Assignment, now: float) -> Step:
    wanted = {assignment.model.digest: assignment.model} if isinstance(assignment.model, Content) else {}
    if assignment.task.digest not in state.tasks:
        wanted[assignment.task.digest] = assignment.task
    begun = {
        digest: Receiving.resume(content, now, state.name, state.link, state.came.get(digest, ()))
        for digest, content in wanted.items()
    }
    state = replace(
        state,
        phase=Phase.FETCHING,
        assignment=assignment,
        deadline=now + assignment.seconds_left,
        receiving=MappingProxyType({digest: receiving for digest, (receiving, _) in begun.items()}),
        came=NOTHING_CAME,
        attempt=0,
        again_at=None,
    )
    if all(
        receiving.is_complete for receiving, _ in begun.values()
    ):  # asking for chunks keeps an agent's place; this one says something else after a while
        return _train(replace(state, begun_at=now + BEGUN_S), now)
    asked = {digest: need for digest, (_, need) in begun.items() if need is not None}
    return state, (*map(Follow, asked), *map(Send, asked.values()))


def _train(state: AgentState, now: float) -> Step:
    """Everything is here: begin to train, unless that cannot end in time."""
    assignment = state.assignment
    assert assignment is not None
    blobs = {digest: receiving.assemble() for digest, receiving in state.receiving.items()}
    actions: list[Action] = [Unfollow(digest) for digest in blobs]
    if assignment.task.digest in blobs:
        actions.append(KeepTask(assignment.task.digest, blobs[assignment.task.digest]))
    state = replace(state, tasks=frozenset({assignment.task.digest}), receiving=NOTHING)
    why_not = _why_not_in_time(state, assignment, now)
    if why_not:
        # One duration less is remembered, so that the agent tries again some time.
        state, _ = leave_round(replace(state, durations=state.durations.without_oldest()), now)
        state, said = decline(state, assignment, why_not, now, rests=True)
        return state, (*actions, *said)
    number = state.training + 1
    state = replace(state, phase=Phase.TRAINING, training=number, trained_since=now, attempt=0)
    model = assignment.model or b""
    model = blobs[model.digest] if isinstance(model, Content) else model
    return await_deadline(state, now), (*actions, Train(number, assignment, model))


def _tell_left_out(state: AgentState, assignment: Assignment) -> tuple[Action, ...]:
    """Tell people, after the last update, that it was left out. What it left is not read any more (`AgentStore`)."""
    left_out = assignment.left_out
    if left_out is None or left_out.round < state.done.of(assignment.run):
        return ()
    what = f"round {left_out.round + 1}: the update was accepted, but left out of the merge: {left_out.why}"
    return (Warn(f"{what}; what it left behind is dropped"),)


def _why_sit_out(state: AgentState, assignment: Assignment) -> str:
    """Empty if there is no reason; so it is with the next two."""
    refusals = state.refusals
    if refusals is None or (refusals.run, refusals.round) != (assignment.run, assignment.round):
        return ""
    return f"sits out: refused twice: {refusals.why}" if refusals.count >= MAX_REFUSALS else ""


def _why_too_large(state: AgentState, assignment: Assignment) -> str:
    limits = state.limits
    model = assignment.model
    if isinstance(model, Content) and model.size > limits.max_model_bytes:
        return f"the model is {model.size} bytes, this device has room for {limits.max_model_bytes}"
    if assignment.task.digest not in state.tasks and assignment.task.size > limits.max_task_bytes:
        return f"the task is {assignment.task.size} bytes, this device has room for {limits.max_task_bytes}"
    return ""


def _bytes_to_fetch(state: AgentState, assignment: Assignment) -> int:
    """The sizes of the contents that an assignment brings, or has the agent fetch."""
    model, task = assignment.model, assignment.task
    model_bytes = model.size if isinstance(model, Content) else len(model or b"")
    return model_bytes + (0 if task.digest in state.tasks else task.size)


def _why_not_in_time(state: AgentState, assignment: Assignment, now: float) -> str:
    fastest = min(state.durations.of(assignment.task.digest), default=0.0)
    left = max(0.0, state.deadline - now)
    if fastest <= left:
        return ""
    return f"cannot finish: a round takes {fastest:.0f} s here, {left:.0f} s are left; set rounds.deadline_s"


def _why_too_slow(state: AgentState, receiving: Receiving, now: float) -> str:
    """Empty also while too little has come to tell, or once half of it has: the deadline may be put off."""
    pace, came = receiving.link.pace, len(receiving.parts)
    if pace is None or came < FIRST_WINDOW or 2 * came >= receiving.count:
        return ""
    takes, left = (receiving.count - came) * pace, max(0.0, state.deadline - now)
    if takes <= _HOPELESS * left:
        return ""
    return f"cannot finish: what is missing takes {takes:.0f} s more to fetch, {left:.0f} s are left"
