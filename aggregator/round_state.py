"""What the rounds' state machine hears (events), asks for (actions), and knows (the plan and the state)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from types import MappingProxyType

from fedprune.wire.messages import CheckIn, Chunk, Content, Failed, Manifest, Message, Need, Submit
from fedprune.wire.transfer import Incoming

PRESENCE_S = 120.0
"""How long an agent counts as waiting after it was last heard; waiting agents check in every 15 to 45 s."""


class Phase(Enum):
    GATHERING = auto()
    TRAINING = auto()
    MERGING = auto()
    DONE = auto()


# Events


@dataclass(frozen=True)
class Connected:
    """The link is up, for the first time or again."""


@dataclass(frozen=True)
class Said:
    """A message from an agent."""

    agent: str
    message: CheckIn | Need | Submit | Chunk | Failed


@dataclass(frozen=True)
class UpdateStored:
    """The agent's update of this round is on the disk and in the book."""

    agent: str


@dataclass(frozen=True)
class UpdateRefused:
    """The agent's update turned out to be malformed, and the book says so."""

    agent: str
    why: str


@dataclass(frozen=True)
class Merged:
    """The round's aggregate is applied and checkpointed; this is the next round's model."""

    model: Model


@dataclass(frozen=True)
class Ticked:
    """`wake_at(state)` may have come."""


Event = Connected | Said | UpdateStored | UpdateRefused | Merged | Ticked


# Actions


@dataclass(frozen=True)
class Send:
    agent: str
    message: Message


@dataclass(frozen=True)
class SendChunk:
    """Publish a chunk: to one agent, or as a broadcast where `agent` is None."""

    content: Content
    index: int
    agent: str | None


@dataclass(frozen=True)
class Publish:
    """Publish the manifest, retained; one that is `done` clears it."""

    manifest: Manifest


@dataclass(frozen=True)
class BookCohort:
    """Write down, durably, who is assigned to the round."""

    round: int
    agents: frozenset[str]


@dataclass(frozen=True)
class StoreUpdate:
    """Check an update and make it durable; `UpdateStored` or `UpdateRefused` follows."""

    agent: str
    submit: Submit
    blob: bytes


@dataclass(frozen=True)
class Merge:
    """Merge all accepted updates of the round; `Merged` follows."""

    round: int


@dataclass(frozen=True)
class GiveUp:
    """At its deadline as many agents have failed as a cohort has, and nobody has succeeded. A person has to look."""

    failed: int


Action = Send | SendChunk | Publish | BookCohort | StoreUpdate | Merge | GiveUp
Step = tuple["RoundState", tuple[Action, ...]]


@dataclass(frozen=True)
class Plan:
    """What does not change while a federation runs. `cohort`: agents a round; `quorum`: updates it needs."""

    run: str
    incarnation: int
    rounds: int
    cohort: int
    quorum: int
    deadline_s: float
    gather_s: float
    seed: int
    task: Content
    steps_per_round: int
    update_values: str
    max_update_bytes: int


@dataclass(frozen=True)
class Model:
    """A version of the global model as agents fetch it; `weights_digest` is that of the decoded weights."""

    content: Content
    weights_digest: bytes


@dataclass(frozen=True)
class Upload:
    """An update on its way in."""

    submit: Submit
    incoming: Incoming


@dataclass(frozen=True)
class RoundState:
    """The round that is open, and who takes part.

    `present`: agents that wait for work, and when each was last heard. `assigned`: this round's cohort.
    `accepted` and `last_accepted`: digest of each agent's accepted update, of this round and of its last one;
    `refused`: of its last malformed one. `failed`: agents that could not do this round, until its next deadline.
    `storing`: updates on their way to the disk.
    `requests`: chunks asked for, by content and index, and by whom; served at `serve_at`.
    """

    plan: Plan
    round: int
    model: Model
    phase: Phase = Phase.GATHERING
    present: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    assigned: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()
    accepted: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    last_accepted: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    refused: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    uploads: Mapping[str, Upload] = field(default_factory=lambda: MappingProxyType({}))
    storing: frozenset[str] = frozenset()
    requests: Mapping[tuple[Content, int], frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    serve_at: float | None = None
    deadline: float | None = None

    @property
    def missing(self) -> frozenset[str]:
        """Assigned agents whose update has not been accepted."""
        return self.assigned - self.accepted.keys()

    def waiting(self, now: float) -> frozenset[str]:
        """The agents that wait for work and were heard lately."""
        return frozenset(agent for agent, heard_at in self.present.items() if now - heard_at <= PRESENCE_S)
