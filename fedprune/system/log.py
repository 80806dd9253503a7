"""A log that a stranger cannot fill: the first lines of a kind in each minute, and then how many more there were."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

LINES_PER_MINUTE = 10
"""Lines of one kind that foreign input may cause in a minute, unless said otherwise."""

_WINDOW_S = 60.0


class LineLimit:
    """Admits so many lines a minute, and counts those that it does not admit.

    Example:
        >>> limit = LineLimit(per_minute=1)
        >>> limit.admit(now=0.0), limit.admit(now=1.0), limit.admit(now=2.0), limit.admit(now=60.0)
        (0, None, None, 2)
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._began = float("-inf")
        self._admitted = 0
        self._withheld = 0

    def admit(self, now: float) -> int | None:
        """None withholds the line; else it is to be said, after the number of those that were withheld before it."""
        if now - self._began >= _WINDOW_S:
            self._began, self._admitted = now, 0
        if self._admitted == self._per_minute:
            self._withheld += 1
            return None
        self._admitted += 1
        withheld, self._withheld = self._withheld, 0
        return withheld


class LimitedLog:
    """A logger for one kind of line. Those that were withheld are counted in the line before the next one.

    `clock` gives seconds. One thread at a time may use it.
    """

    def __init__(
        self,
        logger: logging.Logger,
        *,
        per_minute: int = LINES_PER_MINUTE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._limit = LineLimit(per_minute)
        self._clock = clock

    def log(self, level: int, message: str, *arguments: object) -> None:
        """Log as `logging.Logger.log` does, if the limit admits it."""
        if not self._logger.isEnabledFor(level):
            return
        withheld = self._limit.admit(self._clock())
        if withheld is None:
            return
        if withheld:
            self._logger.log(level, "... and %d more of this kind", withheld)
        self._logger.log(level, message, *arguments)
