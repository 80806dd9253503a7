"""Commands of a link to its broker: in order, bounded, and counted until the broker has it."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

MAX_QUEUED_BYTES = 16 * 2**20
"""Bytes that may be published and not yet be acknowledged by the broker; what does not fit is dropped."""

MOST_SENT = 256
"""Publications that are on their way to the broker at most: paho takes 2 kB for each. Others wait here, for a fifth of
that. With fewer answers would leave slowly while thousands of messages come, behind which acknowledgements wait."""

_MESSAGE_OVERHEAD = 512
"""Bytes that a message takes besides topic and payload, roughly."""


@dataclass(frozen=True, slots=True)
class Publication:
    topic: str
    payload: bytes
    retain: bool

    @property
    def cost(self) -> int:
        return len(self.payload) + len(self.topic) + _MESSAGE_OVERHEAD


@dataclass(frozen=True)
class Subscription:
    topic_filter: str


@dataclass(frozen=True)
class Unsubscription:
    topic_filter: str


Command = Publication | Subscription | Unsubscription


class Outbox:
    """Commands of any thread for the one that talks to the broker. Closed, as at first, it drops whatever is put in."""

    def __init__(self, limit: int = MAX_QUEUED_BYTES) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._is_open = False
        self._commands: deque[Command] = deque()
        self._sent: dict[int, Publication] = {}
        self._outstanding = 0

    def open(self) -> None:
        with self._changed:
            self._is_open = True

    def close(self) -> None:
        """Forget everything: who wants it said over a new connection says it again."""
        with self._changed:
            self._is_open = False
            self._commands.clear()
            self._sent.clear()
            self._outstanding = 0
            self._changed.notify_all()

    @property
    def is_open(self) -> bool:
        with self._changed:
            return self._is_open

    @property
    def unacknowledged(self) -> Publication | None:
        """The largest publication that was sent and that the broker has not acknowledged."""
        with self._changed:
            return max(self._sent.values(), key=lambda publication: publication.cost, default=None)

    def put(self, command: Command) -> bool:
        """Put a command in, unless the outbox is closed, or it is a publication that does not fit."""
        cost = command.cost if isinstance(command, Publication) else 0
        with self._changed:
            if not self._is_open or (cost and self._outstanding + cost > self._limit):
                return False
            self._commands.append(command)
            self._outstanding += cost
            return True

    def take(self) -> Command | None:
        """The next command for the broker; None while `MOST_SENT` of those before are not acknowledged. A publication
        counts until it is."""
        with self._changed:
            return self._commands.popleft() if self._commands and len(self._sent) < MOST_SENT else None

    def sent(self, publication: Publication, identifier: int) -> None:
        """The broker will acknowledge this publication by that identifier."""
        with self._changed:
            if self._is_open:
                self._sent[identifier] = publication

    def acknowledged(self, identifier: int) -> bool:
        """Count one publication off; True if now the broker has all of them."""
        with self._changed:
            publication = self._sent.pop(identifier, None)
            cost = 0 if publication is None else publication.cost
            self._outstanding -= cost
            is_drained = cost > 0 and self._outstanding == 0
            if is_drained:
                self._changed.notify_all()
            return is_drained

    def wait_until_drained(self, seconds: float) -> None:
        """Wait, at most so long, until the broker has all publications, or the outbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._outstanding == 0, seconds)
