"""The vocabulary of the rounds' state machine: events, actions, the plan and the state.

The state is immutable, and its maps are persistent ones (hash array mapped tries): a step makes a new state that
shares nearly everything with the old one. So a step costs the same whatever the fleet's size, and the machine stays a
function: a step that raises has changed nothing, and a state can be kept, compared and replayed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import reduce
from types import MappingProxyType

import msgspec
from rpds import HashTrieMap

from aggregator.arrivals import FIRST_GATHERING_S, Arrivals
from aggregator.cohort import Cohort, Member, Standing
from aggregator.presence import Presence
from aggregator.response_times import ResponseTimes, first_deadline_s
from fedprune.wire.messages import CHUNK_BYTES, Chunk, Content, LeftOut, Manifest, Message, Submit
from fedprune.wire.serving import SendChunk, Serving
from fedprune.wire.transfer import Receiving


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
    """A message of one of the kinds in `UPLINK`, which the table of transitions lists under the message's own type."""

    agent: str
    message: Message


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
class HistoryDiffers:
    """The agent's update is coded by another history than is remembered: it has to come as it is without."""

    agent: str


@dataclass(frozen=True)
class Merged:
    """The round's aggregate is applied and checkpointed; this is the next round's model.

    `left_out` gives the reason for each accepted update that the aggregate does without, by agent. `is_last`: the run
    ends with it, since models no longer become better.
    """

    model: Model
    left_out: Mapping[str, str] = field(default_factory=dict)
    is_last: bool = False


@dataclass(frozen=True)
class RoundGiven:
    """Of a sub-gateway: its parent has it do round `round`, of that model, within so many `seconds`; or, where there is
    no model, the federation is over. Whatever round was open is so no more. `left_out` gives the reason for each of its
    accepted updates that the parent does without, by agent."""

    round: int
    model: Model | None
    seconds: float
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LinkDrained:
    """The broker has all that was published."""


@dataclass(frozen=True)
class Ticked:
    """`wake_at(state)` may have come."""


Event = Connected | Said | UpdateStored | UpdateRefused | HistoryDiffers | Merged | RoundGiven | LinkDrained | Ticked


# Actions


@dataclass(frozen=True, slots=True)
class Send:
    agent: str
    message: Message


@dataclass(frozen=True)
class Publish:
    """Publish the manifest, retained; one that is `done` clears it."""

    manifest: Manifest


@dataclass(frozen=True)
class BookCohort:
    """Write down, durably, who was assigned to the round, what each may weigh, and the round's cap on that."""

    round: int
    examples: Mapping[str, int]
    cap: int


@dataclass(frozen=True)
class KeepChunk:
    """Keep a chunk of an update that is on its way, so that a restart costs no more than what is left."""

    content: Content
    chunk: Chunk


@dataclass(frozen=True)
class StoreUpdate:
    """Check an update and make it durable; `UpdateStored` or `UpdateRefused` follows. It weighs `weight` examples."""

    agent: str
    submit: Submit
    blob: bytes
    weight: int


@dataclass(frozen=True)
class Merge:
    """Merge all accepted updates of the round; `Merged` follows."""

    round: int


@dataclass(frozen=True)
class Warn:
    """Tell the people: the round cannot end as it is."""

    text: str


@dataclass(frozen=True)
class GiveUp:
    """As many agents have failed as a cohort has, and nobody has succeeded. A person has to look."""

    failed: int


@dataclass(frozen=True)
class WarnNobody:
    """Tell the people that nobody has been there for so many seconds, but for check-ins of `strangers` who do not show
    the ticket that they were given."""

    seconds: float
    strangers: int


@dataclass(frozen=True)
class LedAstray:
    """The model that a member held led to another one than the gateway's, and it is sent the whole one: count that, and
    tell the people."""

    agent: str


Action = (
    Send | SendChunk | Publish | BookCohort | KeepChunk | StoreUpdate | Merge | Warn | WarnNobody | LedAstray | GiveUp
)
Step = tuple["RoundState", tuple[Action, ...]]


@dataclass(frozen=True)
class Plan:
    """The settings, which do not change while a federation runs. `cohort`: agents a round; `quorum`: updates it needs.

    `clock_steps_per_round`: by how many steps a round moves the clock of the pruning schedule. `hold_out`: the share of
    its examples that each agent evaluates the model on. `deadline_s`: seconds of a round, and `gather_s` those of the
    wait for a full cohort before it; each None if it follows from what was seen of the devices.

    `fleet`, if it is not empty, names the agents that may take part: a round waits for all of them before it samples
    its cohort, so that equal runs have equal cohorts. `examples_cap`: how many medians of the cohort's example counts
    one update may weigh. `ticket_key` makes tickets, which show that an agent can be reached under its name.

    `sub_gateways` are the agents whose updates are partial sums, of `max_part_bytes` at most: what they weigh is not
    capped, since that was done below. `chunk_bytes`: the largest chunks that the broker takes. `model_codec` describes
    how models travel. `seeded`: version 0 is random, and follows from the task alone. `statement`: who signs the
    manifests, by the root key of a gateway that devices have joined.
    """

    run: str
    incarnation: int
    rounds: int
    cohort: int
    quorum: int
    deadline_s: float | None
    gather_s: float | None
    seed: int
    task: Content
    clock_steps_per_round: int
    codec: str
    max_update_bytes: int
    ticket_key: bytes
    examples_cap: float
    fleet: frozenset[str] = frozenset()
    hold_out: float = 0.0
    model_codec: str = "fp16"
    seeded: bool = False
    chunk_bytes: int = CHUNK_BYTES
    statement: bytes = b""
    sub_gateways: frozenset[str] = frozenset()
    max_part_bytes: int = 0

    def most_bytes(self, agent: str) -> int:
        """The most that an agent's update may have."""
        return self.max_part_bytes if agent in self.sub_gateways else self.max_update_bytes


@dataclass(frozen=True)
class Model:
    """A version of the global model as agents fetch it; `weights_digest` is that of the decoded weights.

    `replays` are the contents that lead to it from versions before, by their numbers; the model whole is larger.
    `small` are the bytes of those contents that may travel in an assignment, by their digests.
    """

    content: Content
    weights_digest: bytes
    replays: Mapping[int, Content] = field(default_factory=dict)
    small: Mapping[bytes, bytes] = field(default_factory=dict)

    @property
    def contents(self) -> tuple[Content, ...]:
        """All that is offered of it."""
        return (self.content, *self.replays.values())


@dataclass(frozen=True)
class Upload:
    """An update on its way in."""

    submit: Submit
    receiving: Receiving


_NO_DIGESTS: HashTrieMap[str, bytes] = HashTrieMap()
_NOTHING_LEFT_OUT: HashTrieMap[str, LeftOut] = HashTrieMap()
_NO_UPLOADS: HashTrieMap[str, Upload] = HashTrieMap()
_NOTHING_CAME: HashTrieMap[bytes, tuple[Chunk, ...]] = HashTrieMap()


@dataclass(frozen=True)
class RoundState:
    """The round that is open, and who takes part.

    `presence`: agents that wait for work. `cohort`: this round's, with where each member stands. `cap`: the most
    examples an update of this round may weigh. `last_accepted`: digest of each agent's last accepted update of the
    rounds before; `refused`: of its last malformed one; `left_out`: its last one that a merge did without. `uploads`:
    updates on their way in, `uploads_bytes` their sizes together; `is_proven`: a chunk of the largest size came of one;
    `came`: chunks of the round's updates that came to the process before this one. `owed`: digests of accepted updates,
    all of round `owed_round`, of agents that do not know yet that they are; they are told at `acknowledge_at` or with
    the next round's work. `serving`: the task, the last models, and who lacks what of them; `served`: those models,
    oldest first. `tickets_given`: in the second that began at `tickets_since`.
    `nobody`: how often in a row a round could not open since nobody was there; `strangers`: tickets given meanwhile.
    `arrivals`: when agents came, in this gathering and the last ones.
    `spares`: agents that are assigned beside the cohort, since some updates will not come. `answer_by`: when members
    that have not said a word since they were assigned lose their places. `most_seconds` are those that a sub-gateway's
    parent gives it.
    """

    plan: Plan
    round: int
    model: Model
    phase: Phase = Phase.GATHERING
    presence: Presence = field(default_factory=Presence)
    cohort: Cohort = field(default_factory=Cohort)
    cap: int = 0
    last_accepted: HashTrieMap[str, bytes] = _NO_DIGESTS
    refused: HashTrieMap[str, bytes] = _NO_DIGESTS
    left_out: HashTrieMap[str, LeftOut] = _NOTHING_LEFT_OUT
    uploads: HashTrieMap[str, Upload] = _NO_UPLOADS
    uploads_bytes: int = 0
    is_proven: bool = False
    came: HashTrieMap[bytes, tuple[Chunk, ...]] = _NOTHING_CAME
    owed: HashTrieMap[str, bytes] = _NO_DIGESTS
    owed_round: int = 0
    acknowledge_at: float | None = None
    serving: Serving = field(default_factory=Serving)
    served: tuple[Model, ...] = ()
    tickets_since: float = -math.inf
    tickets_given: int = 0
    nobody: int = 0
    strangers: int = 0
    answer_by: float | None = None
    deadline: float | None = None
    most_seconds: float = math.inf
    spares: int = 0
    arrivals: Arrivals = field(default_factory=Arrivals)
    response_times: ResponseTimes = field(default_factory=ResponseTimes)

    @property
    def agents(self) -> int:
        """Agents that wait or have a place. Walks over all members."""
        return len(self.presence) + sum(agent not in self.presence for agent in self.cohort.members)

    @property
    def room(self) -> int:
        """Places in the cohort, and beside it, that nobody holds."""
        return self.plan.cohort + self.spares - self.cohort.places_taken

    @property
    def gather_seconds(self) -> float:
        """The seconds that a round waits for a full cohort before a quorum is enough. For a fleet that is named it
        waits as long as it ever does, since cohorts must not vary."""
        if self.plan.gather_s is not None:
            return self.plan.gather_s
        return FIRST_GATHERING_S if self.plan.fleet or not len(self.presence) else self.arrivals.gather_s

    @property
    def seconds(self) -> float:
        """The seconds that the round's members are given."""
        if self.plan.deadline_s is not None:
            return min(self.plan.deadline_s, self.most_seconds)
        members = self.cohort.agents(Standing.ASSIGNED, Standing.SILENT, Standing.OVERDUE, Standing.STORING)
        first = first_deadline_s(self.model.content.size)
        quorum = max(1, self.plan.quorum - self.cohort.accepted)
        return min(self.response_times.deadline_s(members, quorum, first), self.most_seconds)


def resume(
    plan: Plan,
    model: Model,
    round_: int,
    *,
    assigned: Mapping[str, int],
    cap: int,
    accepted: Mapping[str, bytes],
    last_accepted: Mapping[str, bytes],
    refused: Mapping[str, bytes],
    left_out: Mapping[str, LeftOut],
    has_settled: bool = False,
    came: Mapping[bytes, tuple[Chunk, ...]] = MappingProxyType({}),
    response_times: ResponseTimes | None = None,
    most_seconds: float = math.inf,
) -> RoundState:
    """The state of a federation that starts, or goes on with the round it was in, from what the book says.

    `assigned` gives the most examples that each member's update may weigh, `cap` the round's own bound on that.
    `has_settled`: models no longer became better, so that there is no further round.
    """
    unfinished = Phase.TRAINING if assigned else Phase.GATHERING
    phase = Phase.DONE if round_ >= plan.rounds or has_settled else unfinished
    cohort = Cohort()
    for agent, examples in assigned.items():
        member = Member(Standing.ASSIGNED, examples)
        if agent in accepted:
            member = msgspec.structs.replace(member, standing=Standing.ACCEPTED, digest=accepted[agent])
        cohort = cohort.put(agent, member)
    return RoundState(
        plan,
        round_,
        model,
        phase,
        cohort=cohort,
        cap=cap,
        last_accepted=HashTrieMap(last_accepted),
        refused=HashTrieMap(refused),
        left_out=HashTrieMap(left_out),
        came=HashTrieMap(came),
        most_seconds=most_seconds,
        response_times=response_times or ResponseTimes(),
        serving=reduce(Serving.offer, model.contents, Serving(chunk_bytes=plan.chunk_bytes).offer(plan.task)),
        served=(model,),
    )
