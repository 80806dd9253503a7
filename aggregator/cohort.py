"""A round's cohort: the agents that were assigned to it, and where each stands. Counting them costs no walk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

import msgspec
from rpds import HashTrieMap

MOST_REFUSALS = 2
"""Updates of an agent that are refused in a round before it sits the round out: training is keyed, so the same work
makes the same update."""


class Standing(Enum):
    """The state of a member of the cohort. Only the first three hold a place that nobody else may take."""

    ASSIGNED = auto()
    STORING = auto()
    """Its update is on the way to the disk."""
    ACCEPTED = auto()
    SILENT = auto()
    """Not heard since it was assigned: its place is open, yet its update is welcome and waited for."""
    OVERDUE = auto()
    """A deadline passed without its update, which is still welcome and no longer waited for."""
    FAILED = auto()
    """It could not do the round, or its update was refused; it may try again after the next deadline."""
    FORGIVEN = auto()
    """It failed, and the deadline has passed: it may be assigned anew."""
    OUT = auto()
    """It was refused too often: it sits the round out."""


class Member(msgspec.Struct, frozen=True, gc=False):
    """`examples`: the most that its update may weigh. `assigned_at`: monotonic seconds; in the past where the book only
    says so. `answered`: it asked for its work. `told_to_wait`: there was no room for its update. `refusals`: of its
    updates of this round. `digest`: of its accepted update. `why`: the reason of its last failure or refusal. `base`:
    the version of the model that it can go on from, -1 for none; `bases`: the earlier ones that it named so far.
    `knows_terms`: it need not be told them. `rests`: it failed since its device does not permit training now, or too
    little time was left for it.

    A struct, since there are as many as agents: it takes a fifth of a dataclass' memory."""

    standing: Standing
    examples: int
    assigned_at: float = -math.inf
    answered: bool = False
    told_to_wait: bool = False
    refusals: int = 0
    digest: bytes = b""
    why: str = ""
    base: int = -1
    bases: tuple[int, ...] = ()
    knows_terms: bool = False
    rests: bool = False

    @property
    def has_work(self) -> bool:
        """Its update of this round is still to come."""
        return self.standing in (Standing.ASSIGNED, Standing.SILENT, Standing.OVERDUE)


_NOBODY: HashTrieMap[str, Member] = HashTrieMap()
_NONE = (0,) * len(Standing)


@dataclass(frozen=True)
class Cohort:
    """The members by name, in a persistent map, and how many there are of each standing."""

    members: HashTrieMap[str, Member] = _NOBODY
    tally: tuple[int, ...] = _NONE

    def get(self, agent: str) -> Member | None:
        return self.members.get(agent)

    def put(self, agent: str, member: Member) -> Cohort:
        former = self.members.get(agent)
        tally = list(self.tally)
        tally[member.standing.value - 1] += 1
        if former is not None:
            tally[former.standing.value - 1] -= 1
        return Cohort(self.members.insert(agent, member), tuple(tally))

    def move(self, standing: Standing, *sources: Standing) -> Cohort:
        """With every member of one of the `sources` standing so. Walks over all members."""
        moved = self
        for agent, member in self.members.items():
            if member.standing in sources:
                moved = moved.put(agent, msgspec.structs.replace(member, standing=standing))
        return moved

    def count(self, *standings: Standing) -> int:
        return sum(self.tally[standing.value - 1] for standing in standings)

    @property
    def accepted(self) -> int:
        return self.count(Standing.ACCEPTED)

    @property
    def places_taken(self) -> int:
        return self.count(Standing.ASSIGNED, Standing.STORING, Standing.ACCEPTED)

    @property
    def awaited(self) -> int:
        """Members whose update the round waits for."""
        return self.count(Standing.ASSIGNED, Standing.SILENT, Standing.STORING)

    @property
    def failures(self) -> int:
        """Members that failed, or sit the round out, and do not merely rest. Walks over all members."""
        return sum(not self.members[agent].rests for agent in self.agents(Standing.FAILED, Standing.OUT))

    def agents(self, *standings: Standing) -> Iterator[str]:
        """The members that stand so, sorted by name. Walks over all members."""
        return (agent for agent in sorted(self.members) if self.members[agent].standing in standings)

    def __contains__(self, agent: str) -> bool:
        return agent in self.members

    def __len__(self) -> int:
        return len(self.members)
