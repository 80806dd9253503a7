"""A link that keeps what was published, for tests of the shells around the state machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fedprune.wire.link import Delivery


@dataclass
class Recorder:
    """`published` is everything, in order; `on_publish` is called before each."""

    published: list[Delivery] = field(default_factory=list)
    filters: list[str] = field(default_factory=list)
    on_publish: Callable[[str], None] = lambda _: None
    broker: str = "mqtt://recorder"

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        self.on_publish(topic)
        self.published.append(Delivery(topic, payload, retain))
        return len(payload)

    def subscribe(self, topic_filter: str) -> None:
        self.filters.append(topic_filter)

    def unsubscribe(self, topic_filter: str) -> None:
        self.filters.remove(topic_filter)

    def on(self, topic: str) -> list[bytes]:
        """The payloads that were published on a topic."""
        return [sent.payload for sent in self.published if sent.topic == topic]
