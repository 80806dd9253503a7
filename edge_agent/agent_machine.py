"""The agent as a pure state machine: (state, event, now) -> (state, actions).

::

              Assigned            all content here          TrainingDone
      IDLE ───────────► FETCHING ─────────────────► TRAINING ───────────► SUBMITTING
       ▲                   │ moved on                  │ TrainingFailed        │ Accepted, Rejected
       └───────────────────┴───────────────────────────┴───────────────────────┘

There is no clock, socket or file in here. Being connected is not a phase: training goes on without a network.
Whatever may have been lost is asked for again at `wake_at`. Foreign nonsense raises `ProtocolError` and changes
nothing; an event that the table does not list raises `UnlistedEventError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from types import MappingProxyType

from fedprune.errors import ProtocolError
from fedprune.wire.messages import (
    Accepted,
    Assignment,
    CheckIn,
    Chunk,
    Content,
    Failed,
    Manifest,
    Message,
    Need,
    Reason,
    Rejected,
    Submit,
)
from fedprune.wire.transfer import Incoming, all_missing, chunk_count, unpack_bitmap
from fedprune.wire.transitions import Table, backoff, transition

RETRY_S = 2.0
"""First interval at which an unanswered message is sent again; it doubles up to 64 s."""

FETCH_RETRY_S = 20.0
"""Interval without a chunk after which missing ones are asked for again: a chunk takes 15 s at 64 kbit/s."""

LONGEST_WAIT_S = 3600.0
"""However long an aggregator tells an agent to wait."""

IDLE_CHECK_IN_S = 30.0
"""Interval at which an agent that waits for work offers itself again."""

CHECK_IN_AFTER_ATTEMPTS = 3
"""Unanswered asks for content after which the agent asks whether it is still assigned."""


class Phase(Enum):
    IDLE = auto()
    FETCHING = auto()
    TRAINING = auto()
    SUBMITTING = auto()


class Outcome(Enum):
    """What became of an update, and so of the residual."""

    ACCEPTED = "accepted"
    LATE = "late"
    INVALID = "invalid"


# Events: the messages of fedprune.wire.messages that come down, and these.


@dataclass(frozen=True)
class Connected: ...


@dataclass(frozen=True)
class Disconnected: ...


@dataclass(frozen=True)
class TrainingDone:
    """The update that `submit` describes is durable on this device."""

    submit: Submit


@dataclass(frozen=True)
class TrainingFailed:
    why: str


@dataclass(frozen=True)
class Ticked:
    """`wake_at` may have come."""


Event = (
    Connected
    | Disconnected
    | TrainingDone
    | TrainingFailed
    | Ticked
    | Manifest
    | Assignment
    | Chunk
    | Need
    | Accepted
    | Rejected
)


@dataclass(frozen=True)
class Send:
    message: Message


@dataclass(frozen=True)
class SendUpdate:
    """Publish these chunks of the pending update."""

    indexes: tuple[int, ...]


@dataclass(frozen=True)
class Follow:
    """Subscribe to a content's broadcast."""

    digest: bytes


@dataclass(frozen=True)
class Unfollow:
    digest: bytes


@dataclass(frozen=True)
class KeepTask:
    """Store a task bundle, so that it is fetched once; it replaces those of earlier federations."""

    digest: bytes
    blob: bytes


@dataclass(frozen=True)
class Train:
    """Train, encode, make the update durable; `TrainingDone` or `TrainingFailed` will follow."""

    assignment: Assignment
    model: bytes


@dataclass(frozen=True)
class Settle:
    """The pending update's fate is known: adjust the residual and forget the update, in one durable step."""

    outcome: Outcome


Action = Send | SendUpdate | Follow | Unfollow | KeepTask | Train | Settle
Step = tuple["AgentState", tuple[Action, ...]]


@dataclass(frozen=True)
class AgentState:
    """Everything the agent knows.

    `settled` is the last round of `run` that it is done with; `seen` the (run, incarnation) of the last manifest;
    `tasks` the digests of the bundles it keeps; `incoming` what it is fetching.
    """

    name: str
    check_in: CheckIn
    phase: Phase = Phase.IDLE
    connected: bool = False
    run: str = ""
    settled: int = -1
    tasks: frozenset[bytes] = frozenset()
    seen: tuple[str, int] | None = None
    assignment: Assignment | None = None
    incoming: Mapping[bytes, Incoming] = field(default_factory=lambda: MappingProxyType({}))
    pending: Submit | None = None
    attempt: int = 0
    wake_at: float | None = None


def start(
    name: str, check_in: CheckIn, *, run: str, settled: int, tasks: frozenset[bytes], pending: Submit | None
) -> AgentState:
    """The state of an agent that has just been started, from what it remembers."""
    phase = Phase.SUBMITTING if pending is not None else Phase.IDLE
    return AgentState(name, check_in, phase, run=run, settled=settled, tasks=tasks, pending=pending)


def step(state: AgentState, event: Event, now: float) -> Step:
    """One transition. `now` is monotonic seconds."""
    return transition(_TABLE, state.phase, event)(state, event, now)


# Connection and time


def _connect(state: AgentState, _: Connected, now: float) -> Step:
    state = replace(state, connected=True, attempt=0)
    follow = tuple(Follow(digest) for digest in state.incoming)
    asked, actions = _ask(state, now)
    offer: tuple[Action, ...] = () if state.phase in (Phase.IDLE, Phase.TRAINING) else (Send(state.check_in),)
    return asked, follow + offer + actions


def _disconnect(state: AgentState, _: Disconnected, __: float) -> Step:
    return replace(state, connected=False, wake_at=None), ()


def _tick(state: AgentState, _: Ticked, now: float) -> Step:
    if not state.connected:
        return replace(state, wake_at=None), ()  # connecting sets it again
    if state.wake_at is None or now < state.wake_at:
        return state, ()
    return _ask(replace(state, attempt=state.attempt + 1), now)


def _ask(state: AgentState, now: float) -> Step:
    """Say again what is unanswered in this phase, and set the next alarm."""
    interval = {Phase.IDLE: IDLE_CHECK_IN_S, Phase.FETCHING: FETCH_RETRY_S}.get(state.phase, RETRY_S)
    again_at = now + backoff(interval, 0 if state.phase is Phase.IDLE else state.attempt, state.name)
    match state.phase:
        case Phase.IDLE:
            return replace(state, wake_at=again_at), (Send(state.check_in),)
        case Phase.FETCHING:
            asks: tuple[Action, ...] = tuple(
                Send(Need(digest=digest, missing=incoming.missing))
                for digest, incoming in state.incoming.items()
                if not incoming.is_complete
            )
            if state.attempt >= CHECK_IN_AFTER_ATTEMPTS:
                asks += (Send(state.check_in),)
            return replace(state, wake_at=again_at), asks
        case Phase.SUBMITTING:
            assert state.pending is not None
            return replace(state, wake_at=again_at), (Send(state.pending),)
        case Phase.TRAINING:
            return replace(state, wake_at=None), (Send(state.check_in),)


# Manifest


def _see_when_idle(state: AgentState, manifest: Manifest, now: float) -> Step:
    news = (manifest.run, manifest.incarnation)
    if manifest.done or state.seen == news:
        return replace(state, seen=news), ()
    return _ask(replace(state, seen=news, attempt=0), now)


def _see_when_fetching(state: AgentState, manifest: Manifest, now: float) -> Step:
    assert state.assignment is not None
    if (manifest.run, manifest.round) != (state.assignment.run, state.assignment.round):
        idle, unfollow = _abandon(state)
        asked, offer = _ask(idle, now)
        return asked, unfollow + offer
    return _ask(replace(state, attempt=0), now)


def _see_when_submitting(state: AgentState, manifest: Manifest, now: float) -> Step:
    """The gateway speaks again: ask its book about the pending update."""
    return _ask(replace(state, seen=(manifest.run, manifest.incarnation), attempt=0), now)


# Assignment and content


def _take(state: AgentState, assignment: Assignment, now: float) -> Step:
    if assignment.run == state.run and assignment.round <= state.settled:
        return state, ()
    return _fetch(state, assignment, now)


def _retake(state: AgentState, assignment: Assignment, now: float) -> Step:
    current = state.assignment
    assert current is not None
    if (assignment.run, assignment.round, assignment.model) == (current.run, current.round, current.model):
        return state, ()
    idle, unfollow = _abandon(state)
    state, actions = _take(idle, assignment, now)
    return state, unfollow + actions


def _fetch(state: AgentState, assignment: Assignment, now: float) -> Step:
    wanted = {assignment.model.digest: Incoming(assignment.model)}
    if assignment.task.digest not in state.tasks:
        wanted[assignment.task.digest] = Incoming(assignment.task)
    settled = state.settled if assignment.run == state.run else -1
    state = replace(
        state,
        phase=Phase.FETCHING,
        run=assignment.run,
        settled=settled,
        assignment=assignment,
        incoming=MappingProxyType(wanted),
        attempt=0,
    )
    asked, needs = _ask(state, now)
    return asked, tuple(Follow(digest) for digest in wanted) + needs


def _receive(state: AgentState, chunk: Chunk, now: float) -> Step:
    if chunk.digest not in state.incoming:
        return state, ()
    incoming = state.incoming[chunk.digest].add(chunk)
    contents = MappingProxyType({**state.incoming, chunk.digest: incoming})
    state = replace(state, incoming=contents, attempt=0, wake_at=now + backoff(FETCH_RETRY_S, 0, state.name))
    if not incoming.is_complete:
        return state, ()
    try:
        incoming.assemble()
    except ProtocolError:
        return _fetch_again(state, incoming.content)
    return _train(state) if all(content.is_complete for content in contents.values()) else (state, ())


def _fetch_again(state: AgentState, content: Content) -> Step:
    incoming = MappingProxyType({**state.incoming, content.digest: Incoming(content)})
    return replace(state, incoming=incoming), (Send(Need(digest=content.digest, missing=all_missing(content.size))),)


def _train(state: AgentState) -> Step:
    assignment = state.assignment
    assert assignment is not None
    blobs = {digest: incoming.assemble() for digest, incoming in state.incoming.items()}
    actions: list[Action] = [Unfollow(digest) for digest in blobs]
    if assignment.task.digest in blobs:
        actions.append(KeepTask(assignment.task.digest, blobs[assignment.task.digest]))
    actions.append(Train(assignment, blobs[assignment.model.digest]))
    tasks = frozenset({assignment.task.digest})
    idle_network = MappingProxyType[bytes, Incoming]({})
    return replace(state, phase=Phase.TRAINING, tasks=tasks, incoming=idle_network, wake_at=None), tuple(actions)


# Training and submitting


def _submit(state: AgentState, event: TrainingDone, now: float) -> Step:
    state = replace(state, phase=Phase.SUBMITTING, assignment=None, pending=event.submit, attempt=0)
    asked, actions = _ask(state, now)
    return asked, (*actions, SendUpdate(tuple(range(chunk_count(event.submit.update.size)))))


def _fail(state: AgentState, event: TrainingFailed, now: float) -> Step:
    assert state.assignment is not None
    failed = Failed(run=state.assignment.run, round=state.assignment.round, why=event.why[:1000])
    state = replace(
        state,
        phase=Phase.IDLE,
        assignment=None,
        wake_at=now + backoff(IDLE_CHECK_IN_S, 0, state.name),
    )
    return state, (Send(failed),)


def _send_missing(state: AgentState, need: Need, _: float) -> Step:
    assert state.pending is not None
    if need.digest != state.pending.update.digest:
        return state, ()
    missing = tuple(unpack_bitmap(need.missing, chunk_count(state.pending.update.size)))
    return state, (SendUpdate(missing),)


def _accepted(state: AgentState, accepted: Accepted, now: float) -> Step:
    if not _is_about_pending(state, accepted.digest):
        return state, ()
    state, actions = _settle(state, Outcome.ACCEPTED)
    return replace(state, wake_at=now + backoff(IDLE_CHECK_IN_S, 0, state.name)), actions


def _refused(state: AgentState, rejected: Rejected, now: float) -> Step:
    if not _is_about_pending(state, rejected.digest):
        return state, ()
    if rejected.reason is Reason.LATE:
        state, actions = _settle(state, Outcome.LATE)
        asked, offer = _ask(state, now)
        return asked, actions + offer
    state, actions = _settle(state, Outcome.INVALID)
    return replace(state, wake_at=now + _wait(state, rejected)), actions


def _settle(state: AgentState, outcome: Outcome) -> Step:
    assert state.pending is not None
    return replace(
        state, phase=Phase.IDLE, run=state.pending.run, settled=state.pending.round, pending=None, attempt=0
    ), (Settle(outcome),)


def _is_about_pending(state: AgentState, digest: bytes | None) -> bool:
    return state.pending is not None and digest == state.pending.update.digest


# No work


def _wait_for_work(state: AgentState, rejected: Rejected, now: float) -> Step:
    if rejected.digest is not None:
        return state, ()
    return replace(state, wake_at=now + _wait(state, rejected)), ()


def _lose_assignment(state: AgentState, rejected: Rejected, now: float) -> Step:
    if rejected.digest is not None:
        return state, ()
    idle, unfollow = _abandon(state)
    return replace(idle, wake_at=now + _wait(idle, rejected)), unfollow


def _abandon(state: AgentState) -> Step:
    """Drop the assignment and what was fetched for it."""
    unfollow = tuple(Unfollow(digest) for digest in state.incoming)
    return replace(state, phase=Phase.IDLE, assignment=None, incoming=MappingProxyType({}), attempt=0), unfollow


def _wait(state: AgentState, rejected: Rejected) -> float:
    return backoff(min(max(rejected.retry_after, RETRY_S), LONGEST_WAIT_S), 0, state.name)


def _ignore(state: AgentState, _: Event, __: float) -> Step:
    return state, ()


_TABLE: Table[AgentState, Action] = {
    (Phase.IDLE, Connected): _connect,
    (Phase.IDLE, Disconnected): _disconnect,
    (Phase.IDLE, Ticked): _tick,
    (Phase.IDLE, Manifest): _see_when_idle,
    (Phase.IDLE, Assignment): _take,
    (Phase.IDLE, Chunk): _ignore,
    (Phase.IDLE, Need): _ignore,
    (Phase.IDLE, Accepted): _ignore,
    (Phase.IDLE, Rejected): _wait_for_work,
    (Phase.FETCHING, Connected): _connect,
    (Phase.FETCHING, Disconnected): _disconnect,
    (Phase.FETCHING, Ticked): _tick,
    (Phase.FETCHING, Manifest): _see_when_fetching,
    (Phase.FETCHING, Assignment): _retake,
    (Phase.FETCHING, Chunk): _receive,
    (Phase.FETCHING, Need): _ignore,
    (Phase.FETCHING, Accepted): _ignore,
    (Phase.FETCHING, Rejected): _lose_assignment,
    (Phase.TRAINING, Connected): _connect,
    (Phase.TRAINING, Disconnected): _disconnect,
    (Phase.TRAINING, Ticked): _ignore,
    (Phase.TRAINING, Manifest): _ignore,
    (Phase.TRAINING, Assignment): _ignore,
    (Phase.TRAINING, Chunk): _ignore,
    (Phase.TRAINING, Need): _ignore,
    (Phase.TRAINING, Accepted): _ignore,
    (Phase.TRAINING, Rejected): _ignore,
    (Phase.TRAINING, TrainingDone): _submit,
    (Phase.TRAINING, TrainingFailed): _fail,
    (Phase.SUBMITTING, Connected): _connect,
    (Phase.SUBMITTING, Disconnected): _disconnect,
    (Phase.SUBMITTING, Ticked): _tick,
    (Phase.SUBMITTING, Manifest): _see_when_submitting,
    (Phase.SUBMITTING, Assignment): _ignore,
    (Phase.SUBMITTING, Chunk): _ignore,
    (Phase.SUBMITTING, Need): _send_missing,
    (Phase.SUBMITTING, Accepted): _accepted,
    (Phase.SUBMITTING, Rejected): _refused,
}
