"""The subscriptions of one connection: what the broker has yet to answer, and what it refuses and is asked for again.

A cluster that has lost a node refuses some of them while it chooses another leader. A new connection would ask for all
of them once more, of which others would then be refused; so only those are asked for again that were.
"""

from __future__ import annotations

import math

from fedprune.wire.reconnecting import Pauses


class Subscriptions:
    """Which are asked for again, and when: after pauses as between connections, until none is refused any more."""

    def __init__(self) -> None:
        self._unanswered: dict[int, str] = {}
        """By packet identifier, of which there are 65,535."""
        self._refused: dict[str, None] = {}
        self._pauses = Pauses()
        self._due_at = math.inf

    def asked(self, identifier: int, topic_filter: str) -> None:
        """The broker will answer by that identifier."""
        self._unanswered[identifier] = topic_filter

    def granted(self, identifier: int) -> None:
        self._forget(self._unanswered.pop(identifier, ""))

    def refused(self, identifier: int, now: float) -> None:
        topic_filter = self._unanswered.pop(identifier, "")
        if topic_filter:
            self._refused[topic_filter] = None
            if self._due_at == math.inf:
                self._due_at = now + self._pauses.next()

    def given_up(self, topic_filter: str) -> None:
        """Nobody wants it any more, whatever the broker answers."""
        for identifier in [each for each, asked in self._unanswered.items() if asked == topic_filter]:
            del self._unanswered[identifier]
        self._forget(topic_filter)

    def due(self, now: float) -> tuple[str, ...]:
        """Those that are to be asked for again now."""
        if now < self._due_at:
            return ()
        again = tuple(self._refused)
        self._refused.clear()
        self._due_at = math.inf
        return again

    def _forget(self, topic_filter: str) -> None:
        self._refused.pop(topic_filter, None)
        if not self._refused:
            self._due_at = math.inf
            if not self._unanswered:
                self._pauses = Pauses()
