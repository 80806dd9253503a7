"""The vocabulary of the agent's state machine: events, actions, and the state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from types import MappingProxyType

import msgspec

from edge_agent.consent_events import ConsentChanged, ConsentRefusal, ConsentRefused
from edge_agent.held_model import NONE_HELD
from edge_agent.history import Durations, RoundsDone
from edge_agent.history_events import SendShared, SharedTaken
from fedprune.wire.messages import CHUNK_BYTES, Assignment, CheckIn, Chunk, Content, Message, Submit, Terms
from fedprune.wire.serving import Serving
from fedprune.wire.transfer import LinkTraits, Receiving

RETRY_S = 2.0
"""First interval at which an unanswered message is sent again; it doubles up to 64 s."""

LONGEST_WAIT_S = 3600.0
"""However long an aggregator tells an agent to wait."""

IDLE_CHECK_IN_S = 30.0
"""Interval at which an agent that waits for work offers itself again."""

BEGUN_S = 8.0
"""Seconds after which an agent that had nothing to ask for says that it has begun, unless it is done by then: it would
lose its place after 15."""

MAX_REFUSALS = 2
"""Updates of one round that may be refused as invalid before the agent sits the round out."""

LONGEST_PAUSE_S = 60.0
"""How long a training is held for the device's sake, before the round is given up: others wait for it."""


class Phase(Enum):
    IDLE = auto()
    FETCHING = auto()
    TRAINING = auto()
    SUBMITTING = auto()


class Outcome(Enum):
    """The fate of an update, and so of the residual."""

    ACCEPTED = "accepted"
    LATE = "late"
    INVALID = "invalid"


# Events: the messages that come down, and these.


@dataclass(frozen=True)
class Connected:
    """The link is up, for the first time or again."""


@dataclass(frozen=True)
class Disconnected: ...


@dataclass(frozen=True)
class LinkDrained:
    """The broker has all that was published."""


@dataclass(frozen=True)
class TrainingDone:
    """Training `number` made the update that `submit` describes, which is durable on this device."""

    number: int
    submit: Submit


@dataclass(frozen=True)
class TrainingFailed:
    """`tasks`: the digests of the bundles that are still kept. `wants_whole`: what was held did not lead to the round's
    model, which has to be fetched whole."""

    number: int
    why: str
    tasks: frozenset[bytes]
    wants_whole: bool = False


@dataclass(frozen=True)
class HeldChanged:
    """The device holds another model, of that run and version, or none: said as soon as it is so, whatever becomes of
    the training that it was decoded for."""

    held: tuple[str, int]


@dataclass(frozen=True)
class PermissionChanged:
    """The device does not permit training, for the reason `why_not`; or it does again, where that is empty."""

    why_not: str


@dataclass(frozen=True)
class Ticked:
    """`wake_at` may have come."""


OwnEvent = (
    Connected
    | Disconnected
    | LinkDrained
    | TrainingDone
    | TrainingFailed
    | SharedTaken
    | HeldChanged
    | PermissionChanged
    | ConsentRefused
    | ConsentChanged
    | Ticked
)
Event = OwnEvent | Message
"""A message is the manifest, or of one of the kinds in `DOWNLINK`."""


# Actions


@dataclass(frozen=True)
class Send:
    message: Message


@dataclass(frozen=True)
class SendUpdate:
    """Publish these chunks of the pending update, cut into chunks of that size; `LinkDrained` will follow."""

    indexes: tuple[int, ...]
    chunk_bytes: int


@dataclass(frozen=True)
class SubmitWhole:
    """Publish the pending submit with the update in it, which is small."""


@dataclass(frozen=True)
class Follow:
    """Subscribe to a content's broadcast."""

    digest: bytes


@dataclass(frozen=True)
class Unfollow:
    digest: bytes


@dataclass(frozen=True)
class KeepChunk:
    """Keep a chunk of a content that is on its way, so that a restart costs no more than what is left."""

    content: Content
    chunk: Chunk


@dataclass(frozen=True)
class KeepTask:
    """Store a task bundle, so that it is fetched once; it replaces those of earlier federations."""

    digest: bytes
    blob: bytes


@dataclass(frozen=True)
class Train:
    """Train, encode, make the update durable; `TrainingDone` or `TrainingFailed` of this number will follow.

    `model` is the content that the assignment names, empty if it names none."""

    number: int
    assignment: Assignment
    model: bytes


@dataclass(frozen=True)
class StopTraining:
    """End the training between two steps. What still comes of it is not wanted."""


@dataclass(frozen=True)
class Settle:
    """The pending update's fate is known: adjust the residual and forget the update, in one durable step."""

    outcome: Outcome


@dataclass(frozen=True)
class Warn:
    """Tell the people."""

    text: str


@dataclass(frozen=True)
class WarnUnanswered:
    """Tell the people that what was said so many times, messages of one kind, stays unanswered.

    `is_seen`: a manifest came. `chunk_bytes`: the size of the chunks that were asked for, if it is a need.
    """

    kind: str
    times: int
    is_seen: bool
    chunk_bytes: int = 0


Done = (
    Send
    | SubmitWhole
    | SendUpdate
    | Follow
    | Unfollow
    | KeepChunk
    | KeepTask
    | Train
    | StopTraining
    | Settle
    | Warn
    | WarnUnanswered
)
Action = Done | SendShared
Step = tuple["AgentState", tuple[Action, ...]]


@dataclass(frozen=True)
class Limits:
    """The largest contents that the device has room for, in bytes, what its owner lets a round fetch and send, and the
    largest chunks that its broker takes."""

    max_task_bytes: int
    max_model_bytes: int
    max_round_bytes: int | None = None
    chunk_bytes: int = CHUNK_BYTES


@dataclass(frozen=True)
class Seen:
    """The contents of the last manifest, as far as they matter later."""

    run: str
    incarnation: int
    round: int


@dataclass(frozen=True)
class KnownTerms:
    """The terms that an assignment of that run and incarnation brought: they count for its later ones."""

    run: str
    incarnation: int
    terms: Terms


@dataclass(frozen=True)
class Refusals:
    """A count of a round's updates that were refused as invalid, and why the last one was."""

    run: str
    round: int
    count: int
    why: str


NOTHING: Mapping[bytes, Receiving] = MappingProxyType({})
NOTHING_CAME: Mapping[bytes, tuple[Chunk, ...]] = MappingProxyType({})


@dataclass(frozen=True)
class AgentState:
    """Everything the agent knows.

    `done`: the rounds that it is done with; `tasks`: digests of the bundles that it keeps; `held`: run and version
    of the model that it holds; `wants_whole`: what it held led elsewhere. `ticket`: what the gateway gave it, at
    `ticket_at`. `terms`: those of the gateway that was heard last, None until it says them.

    `assignment` is to be done until `deadline`; `receiving`: what is fetched for it; `link`: what that has shown of the
    link; `came`: chunks that came to the process before this one, until something is fetched. `heard_at`: when the
    gateway last said something, chunks aside; `unanswered`: how often it was told the same since. `training`: the
    number of the last training, begun at `trained_since`; `durations`: of those before. `pending`: the update whose
    answer is outstanding, which is offered in `serving`; `submitted_to`: run and incarnation of the gateway that
    awaited it, None if another process made it; `refusals`: of the updates of the round in which one was refused last.

    `again_at`: when what this phase says is said again, `attempt`: how often it was already. `begun_at`: when an agent
    that had nothing to ask for says that it has begun.
    `waits_for`: why the device does not permit training, held since `held_since`; empty if it does. `refusal`: the last
    assignment was refused for lack of consent, last changed at `consent_at`. `fetched`: bytes that it has fetched.
    """

    name: str
    check_in: CheckIn
    limits: Limits
    done: RoundsDone
    durations: Durations
    serving: Serving
    phase: Phase = Phase.IDLE
    connected: bool = False
    tasks: frozenset[bytes] = frozenset()
    seen: Seen | None = None
    held: tuple[str, int] = NONE_HELD
    wants_whole: bool = False
    ticket: bytes = b""
    ticket_at: float = float("-inf")
    terms: KnownTerms | None = None
    assignment: Assignment | None = None
    deadline: float = 0.0
    receiving: Mapping[bytes, Receiving] = field(default_factory=lambda: NOTHING)
    link: LinkTraits = field(default_factory=LinkTraits)
    came: Mapping[bytes, tuple[Chunk, ...]] = field(default_factory=lambda: NOTHING_CAME)
    heard_at: float = float("-inf")
    unanswered: int = 0
    training: int = 0
    trained_since: float = 0.0
    pending: Submit | None = None
    submitted_to: tuple[str, int] | None = None
    refusals: Refusals | None = None
    attempt: int = 0
    again_at: float | None = None
    begun_at: float | None = None
    waits_for: str = ""
    held_since: float = 0.0
    refusal: ConsentRefusal | None = None
    consent_at: float = float("-inf")
    fetched: int = 0

    @property
    def offer(self) -> CheckIn:
        """The check-in, with what the agent has to show by now."""
        run, version = self.held
        return msgspec.structs.replace(
            self.check_in,
            ticket=self.ticket,
            run=run,
            version=version,
            wants_whole=self.wants_whole,
            terms=0 if self.terms is None else self.terms.incarnation,
        )

    @property
    def wake_at(self) -> float | None:
        """The time at which the next `Ticked` is due; None without a link: connecting says everything again."""
        if not self.connected:
            return None
        awaited = (receiving.again_at for receiving in self.receiving.values() if not receiving.is_complete)
        alarms = (self.again_at, self.begun_at, self.serving.due_at, self.given_up_at, *awaited)
        return min((alarm for alarm in alarms if alarm is not None), default=None)

    @property
    def given_up_at(self) -> float | None:
        """When a training that is held is given up; None if none is."""
        is_held = self.waits_for and self.phase is Phase.TRAINING
        return max(self.held_since, self.trained_since) + LONGEST_PAUSE_S if is_held else None

    @property
    def is_refusing(self) -> bool:
        """The owner refused what the gateway that was seen last has to do: the agent does not offer itself."""
        if self.refusal is None or self.seen is None:
            return self.refusal is not None
        return (self.refusal.run, self.refusal.incarnation) == (self.seen.run, self.seen.incarnation)

    def awaits_training(self, number: int) -> bool:
        """Training `number` goes on, and was not stopped."""
        return self.phase is Phase.TRAINING and number == self.training

    def durations_at(self, now: float) -> Durations:
        """The durations with that of the training under way, if it ended now."""
        assert self.assignment is not None
        return self.durations.with_training(self.assignment.task.digest, now - self.trained_since)


def start(
    name: str,
    check_in: CheckIn,
    limits: Limits,
    *,
    done: RoundsDone,
    durations: Durations,
    tasks: frozenset[bytes],
    pending: Submit | None,
    held: tuple[str, int] = NONE_HELD,
    came: Mapping[bytes, tuple[Chunk, ...]] = NOTHING_CAME,
) -> AgentState:
    """The state of an agent that has just been started, from what it remembers."""
    serving = Serving() if pending is None else Serving().offer(pending.content)
    phase = Phase.IDLE if pending is None else Phase.SUBMITTING
    state = AgentState(name, check_in, limits, done, durations, serving, phase, held=held, pending=pending)
    return replace(state, tasks=tasks, link=LinkTraits(limits.chunk_bytes), came=came)
