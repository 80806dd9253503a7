"""Arrivals: when agents come while a round waits for a full cohort, and how long that is worth waiting.

Nobody has to know how long a fleet takes to check in. Opening a round early loses little: places that are open are
given to those who come later. All of it is a value, and pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

REMEMBERED = 8
"""Gatherings that count, the last ones."""

SLACK = 2.0
"""A round waits so many times as long as the last agent took to come in any of those."""

FIRST_GATHERING_S = 30.0
"""Seconds to wait where nothing was seen yet, and at most: agents without work check in every 15 to 45 s."""

SHORTEST_GATHERING_S = 5.0
"""Seconds to wait at least: an agent whose connection was cut is back by then, mostly."""


@dataclass(frozen=True)
class Arrivals:
    """A gathering that began at `since`, to which the last agent so far came at `latest`; and the seconds that the last
    agent took to come in each of the gatherings before, the newest last."""

    since: float = 0.0
    latest: float = 0.0
    seen: tuple[float, ...] = ()

    def begun(self, now: float) -> Arrivals:
        """A gathering begins. Who waits already has come at once."""
        return replace(self, since=now, latest=now)

    def came(self, now: float) -> Arrivals:
        """An agent came that was not there."""
        return replace(self, latest=now)

    def ended(self) -> Arrivals:
        """The round opens.

        >>> Arrivals().begun(100.0).came(104.0).ended().gather_s
        8.0
        """
        return replace(self, seen=(*self.seen, self.latest - self.since)[-REMEMBERED:])

    @property
    def gather_s(self) -> float:
        """The seconds to wait for a full cohort.

        >>> Arrivals().gather_s
        30.0
        """
        if not self.seen:
            return FIRST_GATHERING_S
        return min(max(SHORTEST_GATHERING_S, SLACK * max(self.seen)), FIRST_GATHERING_S)
