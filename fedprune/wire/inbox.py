"""Messages that a link has received and nobody has taken: bounded, so that a flood waits at the broker instead."""

from __future__ import annotations

from collections import deque

from fedprune.wire.link import Delivery, Events

MAX_WAITING_BYTES = 4 * 2**20
"""Messages that may wait to be handled; while there are more, nothing is read from the broker. They are three times the
updates of a small model that are stored together, so that whoever stores them need not wait for others."""

_MESSAGE_OVERHEAD = 512
"""Bytes that a message takes besides topic and payload, roughly."""


class Inbox:
    """The link's end of a queue of events, which others fill too; one thread uses it."""

    def __init__(self, events: Events, limit: int = MAX_WAITING_BYTES) -> None:
        self._events = events
        self._limit = limit
        self._sizes: deque[int] = deque()  # of the latest deliveries: those not taken yet are among them
        self._waiting = 0

    def put(self, delivery: Delivery) -> None:
        size = len(delivery.payload) + len(delivery.topic) + _MESSAGE_OVERHEAD
        self._sizes.append(size)
        self._waiting += size
        self._events.put(delivery)

    def is_full(self) -> bool:
        """More bytes wait than may. Events are taken in order, so as many deliveries wait as events do, at most."""
        while len(self._sizes) > self._events.qsize():
            self._waiting -= self._sizes.popleft()
        return self._waiting > self._limit
