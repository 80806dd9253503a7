"""Response times: the seconds that agents take from their assignment to their accepted update, and what follows.

A round's deadline and the agents that are assigned beside the cohort follow from what was seen of the devices, so that
nobody has to know how fast a fleet is. All of it is a value, and pure.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rpds import HashTrieMap

REMEMBERED = 8
"""Response times of an agent that count, the newest ones."""

_SECONDS = struct.Struct("d")

MOST_AGENTS = 200_000
"""Agents whose response times are remembered; others count as unknown."""

SLACK = 2.0
"""A deadline is so many times what is expected of the slowest member that is waited for."""

STRAGGLER = 4.0
"""Times the cohort's median: who is expected to take longer is waited for only if the quorum needs it."""

FIRST_S = 600.0
"""Seconds of a deadline where nothing was seen yet, for the training."""

SLOW_LINK = 8000.0
"""Bytes a second, 64 kbit/s, of a link that the first deadline leaves time for, model and update."""

SHORTEST_S, LONGEST_S = 60.0, 30 * 86_400.0
"""Bounds of a deadline."""

MOST_SPARES = 0.5
"""Of the cohort: agents that are assigned beside it at most."""

FEWEST_OUTCOMES = 16.0
"""Assignments whose outcome was seen before any agents are assigned beside the cohort."""

_OUTCOMES = 256.0
"""Outcomes that count, about: older ones fade."""

_QUANTILE = 0.75
"""Of an agent's response times that is expected of it: one that was slow once is not slow."""

_MISS = 2.0
"""Who took longer than a deadline counts as having taken so many times that, until an update of it comes."""

MOST_MISSED = 16.0
"""Times the slowest response that is remembered of an agent: more is not expected of it however often it misses. It is
away then, and not slow; and an update that takes longer all the same is welcome after a deadline too."""


@dataclass(frozen=True)
class ResponseTimes:
    """`seen`: those of each agent, the newest last, as float64: a tuple would take three times the memory. `missed`:
    the seconds that an agent counts as taking that missed a deadline and has not responded since. Of some `outcomes`
    that were seen, older ones fading, so many `misses` were of agents that failed, or whose update did not come by the
    deadline."""

    seen: HashTrieMap[str, bytes] = HashTrieMap()
    missed: HashTrieMap[str, float] = HashTrieMap()
    outcomes: float = 0.0
    misses: float = 0.0

    def with_response(self, agent: str, seconds: float) -> ResponseTimes:
        """An agent's update was accepted after so many seconds."""
        return self._with_outcome(0.0)._with(agent, seconds)

    def with_miss(self, agent: str, seconds: float) -> ResponseTimes:
        """An agent's update had not come after so many seconds.

        That tells nothing of one that got its place shortly before the deadline, or is known to take longer.
        """
        times, known, told = self._with_outcome(1.0), self.expected(agent), _MISS * seconds
        is_forgotten = agent not in self.missed and len(self.missed) >= MOST_AGENTS
        if seconds < SHORTEST_S or (known or 0.0) > told or is_forgotten:
            return times
        return replace(times, missed=self.missed.insert(agent, min(told, LONGEST_S)))

    def with_failure(self) -> ResponseTimes:
        """An agent could not do a round, for whatever reason: that says nothing of its speed."""
        return self._with_outcome(1.0)

    def of(self, agent: str) -> Sequence[float]:
        """The seconds that are remembered of an agent, the newest last."""
        return [*memoryview(self.seen.get(agent) or b"").cast("d")]

    def expected(self, agent: str) -> float | None:
        """The seconds that are expected of an agent; None if nothing was seen of it.

        >>> ResponseTimes().with_response("a", 9).with_response("a", 90).with_response("a", 8).expected("a")
        90.0
        """
        seen, missed = self.of(agent), self.missed.get(agent)
        if not seen:
            return missed
        usual = _quantile(sorted(seen), _QUANTILE)
        return usual if missed is None else max(usual, min(missed, MOST_MISSED * max(seen)))

    def deadline_s(self, members: Iterable[str], quorum: int, first_s: float) -> float:
        """The seconds to give a round in which `members` take part, `first_s` if nothing was seen of any.

        Everybody is waited for who is expected within `STRAGGLER` times the median, and at least a quorum. Members of
        whom nothing was seen may take as long; the quorum is not counted on to be theirs.
        """
        members = list(members)
        known = sorted(seconds for seconds in map(self.expected, members) if seconds is not None)
        if not known:
            return first_s
        limit = STRAGGLER * _quantile(known, 0.5)
        unknown = [limit] * (len(members) - len(known))
        needed = known[min(quorum, len(known)) - 1]
        longest = max(seconds for seconds in [*known, *unknown] if seconds <= max(limit, needed))
        return min(max(SHORTEST_S, SLACK * longest), LONGEST_S)

    def spares(self, cohort: int) -> int:
        """Agents to assign beside a cohort, so that as many updates come as it has members.

        >>> ResponseTimes(outcomes=100.0, misses=20.0).spares(8)
        2
        """
        if self.outcomes < FEWEST_OUTCOMES:
            return 0
        rate = min(self.misses / self.outcomes, MOST_SPARES)
        return int(min(MOST_SPARES * cohort, cohort * rate / (1.0 - rate) + 0.5))

    def _with(self, agent: str, seconds: float) -> ResponseTimes:
        former, missed = self.seen.get(agent), self.missed.discard(agent)
        if former is None and len(self.seen) >= MOST_AGENTS:
            return replace(self, missed=missed)
        seen = (former or b"") + _SECONDS.pack(min(max(0.0, seconds), LONGEST_S))
        return replace(self, seen=self.seen.insert(agent, seen[-REMEMBERED * _SECONDS.size :]), missed=missed)

    def _with_outcome(self, miss: float) -> ResponseTimes:
        kept = 1.0 - 1.0 / _OUTCOMES
        return replace(self, outcomes=kept * self.outcomes + 1.0, misses=kept * self.misses + miss)


def first_deadline_s(model_bytes: int) -> float:
    """The seconds of a round of whose devices nothing is known: it has a model of so many bytes, and updates of as many
    at most.

    >>> first_deadline_s(200_000)
    650.0
    """
    return min(FIRST_S + 2 * model_bytes / SLOW_LINK, LONGEST_S)


def _quantile(rising: Sequence[float], part: float) -> float:
    """The nearest rank: one that was seen."""
    return float(rising[max(0, math.ceil(part * len(rising)) - 1)])
