"""Links to a real broker, as tests use them: waiting for events instead of sleeping."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fedprune.wire.broker import Broker
from fedprune.wire.link import Delivery, Drained, LinkUp
from fedprune.wire.transport import MqttLink

PATIENCE_S = 30.0
"""How long a test waits before it gives up on an event."""


class Wire:
    """A connected link and its events."""

    def __init__(self, link: MqttLink, events: queue.SimpleQueue[Any]) -> None:
        self.link = link
        self._events = events

    @property
    def waiting(self) -> int:
        """How many events have come that nobody has taken."""
        return self._events.qsize()

    def next(self) -> Any:
        """The next event; `Drained` comes only to those who ask for it with `until`."""
        while isinstance(event := self._events.get(timeout=PATIENCE_S), Drained):
            pass
        return event

    def until(self, kind: type) -> Any:
        """The next event of a kind; those before it are dropped."""
        deadline = time.monotonic() + PATIENCE_S
        while not isinstance(event := self._events.get(timeout=PATIENCE_S), kind):
            assert time.monotonic() < deadline, f"no {kind.__name__} came"
        return event

    def until_topic(self, topic: str, payload: bytes | None = None) -> Delivery:
        """The next message on a topic, or the next one with that payload."""
        while True:
            delivery: Delivery = self.until(Delivery)
            if delivery.topic == topic and payload in (None, delivery.payload):
                return delivery


@contextmanager
def connected(
    broker: Broker | str, client: str = "test", *filters: str, will: tuple[str, bytes] | None = None
) -> Iterator[Wire]:
    """A link that is up, and has subscribed to `filters`."""
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    where = Broker(url=broker) if isinstance(broker, str) else broker
    with MqttLink(where, client, events, will=will) as link:
        wire = Wire(link, events)
        assert wire.next() == LinkUp()
        for topic_filter in filters:
            link.subscribe(topic_filter)
        yield wire
