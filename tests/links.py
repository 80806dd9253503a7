"""Links to a real broker, as tests use them: waiting for events instead of sleeping."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fedprune.errors import BrokerError
from fedprune.wire.broker import Broker
from fedprune.wire.link import Delivery, Drained, LinkUp
from fedprune.wire.transport import MqttLink
from tests.patience import PATIENCE_S

_ECHO = Delivery("echo", b"")
"""What a link says to itself; no test hears of it."""


class Wire:
    """A connected link and its events."""

    def __init__(self, link: MqttLink, events: queue.SimpleQueue[Any]) -> None:
        self.link = link
        self._events = events
        self._earlier: list[Any] = []

    @property
    def waiting(self) -> int:
        """How many events have come that nobody has taken."""
        return len(self._earlier) + self._events.qsize()

    def subscribe(self, *filters: str) -> None:
        """Subscribe, and return once the broker knows: what others publish from now on will come."""
        for topic_filter in (*filters, _ECHO.topic):
            self.link.subscribe(topic_filter)
        self.link.publish(_ECHO.topic, _ECHO.payload)
        earlier: list[Any] = []
        expected = {_ECHO, Drained()}
        while expected and not any(isinstance(event, BrokerError) for event in earlier):
            event = self._take()
            if event in expected:
                expected.remove(event)
            else:
                earlier.append(event)
        self.link.unsubscribe(_ECHO.topic)
        self._earlier = earlier

    def next(self) -> Any:
        """The next event; `Drained` comes only to those who ask for it with `until`."""
        while isinstance(event := self._take(), Drained) or event == _ECHO:
            pass
        return event

    def until(self, kind: type) -> Any:
        """The next event of a kind; those before it are dropped."""
        deadline = time.monotonic() + PATIENCE_S
        while not isinstance(event := self._take(), kind) or event == _ECHO:
            assert time.monotonic() < deadline, f"no {kind.__name__} came"
        return event

    def until_topic(self, topic: str, payload: bytes | None = None) -> Delivery:
        """The next message on a topic, or the next one with that payload."""
        while True:
            delivery: Delivery = self.until(Delivery)
            if delivery.topic == topic and payload in (None, delivery.payload):
                return delivery

    def _take(self) -> Any:
        return self._earlier.pop(0) if self._earlier else self._events.get(timeout=PATIENCE_S)


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
        if filters:
            wire.subscribe(*filters)
        yield wire
