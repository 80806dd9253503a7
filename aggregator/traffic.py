"""The bytes of a round, counted in one place each way, by what they are for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from fedprune.wire.messages import Assignment, Chunk, Message, Submit
from fedprune.wire.packets import PUBACK_BYTES, publish_bytes


class Traffic(StrEnum):
    """What bytes are for. A chunk counts with its envelope, of a message that brings a content just that; a mask counts
    as part of the model that brings it."""

    MODEL = "model"
    UPDATE = "update"
    VOTES = "votes"
    """Those for pruned weights to come back, which are part of the updates that bring them."""
    TASK = "task"
    CONTROL = "control"
    """Everything else: manifests, messages of both sides, presence."""


@dataclass
class TrafficCount:
    """All that went one way: payload bytes by what they are for, messages, and the bytes of MQTT packets.

    A message counts once for each agent that it goes to.
    """

    payload: Counter[Traffic] = field(default_factory=Counter)
    messages: int = 0
    packets: int = 0

    def add(self, topic: str, payload: int, what: Traffic, content: int = 0, receivers: int = 1) -> None:
        """A message of so many payload bytes, `content` of which are for `what` and the others for control."""
        self.payload[what] += content * receivers
        self.payload[Traffic.CONTROL] += (payload - content) * receivers
        self.messages += receivers
        self.packets += publish_bytes(topic, payload) * receivers

    def part(self, whole: Traffic, part: Traffic, content: int) -> None:
        """So many bytes that were counted for `whole` are for `part`. After a restart fewer were counted."""
        moved = min(content, self.payload[whole])
        self.payload[whole] -= moved
        self.payload[part] += moved

    @property
    def by_kind(self) -> dict[str, int]:
        return {kind.value: self.payload[kind] for kind in Traffic if self.payload[kind]}

    def mqtt_bytes(self, other: TrafficCount) -> int:
        """The bytes of packets this way, the acknowledgements of what went the other way among them."""
        return self.packets + PUBACK_BYTES * other.messages


def content_bytes(message: Message, payload: int) -> int:
    """The bytes of a message of so many that are a model or an update."""
    match message:
        case Chunk():
            return payload
        case Assignment(model=bytes(blob)) | Submit(update=bytes(blob)):
            return len(blob)
    return 0
