"""The pauses before a broker is connected to again: exponential back-off with full jitter.

A broker that is started again is back within a second or two. Its clients lost their connections at the same moment,
and would come back in the one second in which their short first pauses end. So who is one of many draws each pause over
a window that is never short.
"""

from __future__ import annotations

import random

FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 60.0
"""The longest pauses before the first attempt, and before any; each attempt doubles it."""

SPREAD_S = 10.0
"""The longest pause of one of many is at least this: 10,000 agents then come back as fast as an aggregator answers
them, about a thousand a second, and one waits for five seconds on average."""

LASTING_S = 30.0
"""A connection that stood for so long was none that failed."""


class Pauses:
    """The pauses of one link."""

    def __init__(self, *, is_one_of_many: bool = False) -> None:
        self._shortest = SPREAD_S if is_one_of_many else FIRST_DELAY_S
        self._attempt = 0
        self.short_lived = 0
        """Connections in a row that did not last."""

    def connection_ended(self, stood_s: float) -> None:
        """One that does not last counts as a failed attempt: two clients with one id end each other's."""
        self.short_lived = 0 if stood_s >= LASTING_S else self.short_lived + 1
        self._attempt = self.short_lived

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        longest = max(self._shortest, FIRST_DELAY_S * 2.0 ** min(self._attempt, 32))
        self._attempt += 1
        return random.uniform(0.0, min(LONGEST_DELAY_S, longest))
