"""Devices that flood: who says more than any round takes is not listened to for a while.

A broker holds so many messages for an aggregator that is busy, and drops what comes beyond, whoever's it is: so a
single device that says thousands in a second would keep all others from being heard. Pure.
"""

from __future__ import annotations

import math
from collections import Counter

MOST_SAID = 1000
"""Messages of one device in a window, beside its update's chunks. An agent says some ten in a minute, and some in a
second while it fetches a large model."""

WINDOW_S = 10.0

SHUT_OUT_S = 600.0
"""How long a device that floods is not listened to. Then it is, for as long as it does not flood."""


class Floods:
    """Counts what each device says, within a window of time. Seconds are monotonic."""

    def __init__(self) -> None:
        self._began = -math.inf
        self._said: Counter[str] = Counter()
        self._chunks: dict[str, int] = {}
        """The most that a device's updates had within the window: one that has come counts until that is over."""
        self._until: dict[str, float] = {}

    @property
    def authors(self) -> frozenset[str]:
        """The devices that are not to be listened to."""
        return frozenset(self._until)

    def begins_with(self, agent: str, chunks: int, now: float) -> bool:
        """Count a message; True if it is the one from which on its author is not to be listened to. `chunks` are the
        most that its update can have now."""
        if now - self._began >= WINDOW_S:
            self._began, self._said, self._chunks = now, Counter(), {}
        self._said[agent] += 1
        self._chunks[agent] = max(chunks, self._chunks.get(agent, 0))
        if self._said[agent] <= MOST_SAID + self._chunks[agent] or agent in self._until:
            return False
        self._until[agent] = now + SHUT_OUT_S
        return True

    def forgive(self, now: float) -> bool:
        """Listen again to those whose time is over; True if there are any."""
        over = [agent for agent, until in self._until.items() if now >= until]
        for agent in over:
            del self._until[agent], self._said[agent]
        return bool(over)
