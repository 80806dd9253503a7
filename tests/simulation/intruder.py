"""Somebody else on the broker: replays, mutates and misdirects what was really said, and says what nobody would."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from fedprune.wire.link import Delivery
from fedprune.wire.messages import MAX_MESSAGE_BYTES, UPLINK
from fedprune.wire.topics import Topics


class Trick(Enum):
    """What can be done with a message that was overheard. Those down to `FOREIGN` no receiver may heed."""

    REPLAYED = "sent again, as it was"
    TRUNCATED = "cut off"
    OVERSIZED = "longer than any message may be"
    NOISE = "random bytes where a message should be"
    NONSENSE = "a required field of a wrong type"
    OTHER_KIND = "under the name of another kind"
    WRONG_SHARD = "in a shard that is not the agent's"
    OTHER_TOPIC = "where nothing is said"
    FOREIGN = "in another federation"
    FORGED = "with a field of the intruder's choice"
    FLIPPED = "with one bit changed"
    IMPERSONATED = "in the name of another agent"


HARMLESS = tuple(Trick)[: tuple(Trick).index(Trick.FOREIGN) + 1]
_VALUES: list[Any] = [0, 1, 2, 3, 2**31 - 1, -1, 1e9, "late", "invalid", "fp32", "", b"", b"\1", None, True]
_IDS = ("agent-0", "agent-1", "agent-2", "stranger")


@dataclass(frozen=True)
class Mischief:
    """One message of an intruder; `choices` decides everything that the trick leaves open."""

    trick: Trick
    choices: int

    def of(self, overheard: Delivery, topics: Topics) -> Delivery:
        """The message to send, made of one that was overheard."""
        return _TRICKS[self.trick](overheard, random.Random(self.choices), topics)


def _truncated(overheard: Delivery, chance: random.Random, _: Topics) -> Delivery:
    return Delivery(overheard.topic, overheard.payload[: chance.randrange(max(1, len(overheard.payload)))] or b"\x81")


def _oversized(overheard: Delivery, chance: random.Random, _: Topics) -> Delivery:
    return Delivery(overheard.topic, overheard.payload + b"\0" * chance.randrange(MAX_MESSAGE_BYTES, 3 * 2**20))


def _noise(overheard: Delivery, chance: random.Random, _: Topics) -> Delivery:
    return Delivery(overheard.topic, b"\xc1" + chance.randbytes(chance.randrange(300)))


def _nonsense(overheard: Delivery, chance: random.Random, _: Topics) -> Delivery:
    fields = _fields(overheard.payload)
    fields[0] = chance.choice([None, 2, -1, 2**63, "1", [1]])
    return Delivery(overheard.topic, msgspec.msgpack.encode(fields))


def _other_kind(overheard: Delivery, chance: random.Random, _: Topics) -> Delivery:
    level, _, kind = overheard.topic.rpartition("/")  # kinds are one letter
    payload = overheard.payload if kind in "ka" else b"\x90"
    return Delivery(f"{level}/{chance.choice([*'cnskfayr', 'partial', 'x' * 500])}", payload[:20])


def _wrong_shard(overheard: Delivery, chance: random.Random, topics: Topics) -> Delivery:
    agent, kind = chance.choice(_IDS), chance.choice(list(UPLINK))
    shard = chance.choice(["-1", "64", "00", "x", ""])
    return Delivery(f"fp/{topics.federation}/u/{shard}/{agent}/{kind}", overheard.payload)


def _other_topic(overheard: Delivery, chance: random.Random, topics: Topics) -> Delivery:
    ends = ("up/1", "up/1/a/b/c", "status/agent-0", "down/stranger/accepted", "partial/worker", "roundabout")
    return Delivery(f"fedprune/{topics.federation}/{chance.choice(ends)}", overheard.payload)


def _foreign(overheard: Delivery, _: random.Random, topics: Topics) -> Delivery:
    return Delivery(overheard.topic.replace(f"/{topics.federation}/", "/another/", 1), overheard.payload)


def _forged(overheard: Delivery, chance: random.Random, _: Topics) -> Delivery:
    fields = _fields(overheard.payload)
    for _field in range(chance.randint(1, 3)):
        fields[chance.randrange(len(fields))] = chance.choice([*_VALUES, *fields])
    return Delivery(overheard.topic, msgspec.msgpack.encode(fields))


def _flipped(overheard: Delivery, chance: random.Random, _: Topics) -> Delivery:
    payload = bytearray(overheard.payload or b"\0")
    payload[chance.randrange(len(payload))] ^= 1 << chance.randrange(8)
    return Delivery(overheard.topic, bytes(payload))


def _impersonated(overheard: Delivery, chance: random.Random, topics: Topics) -> Delivery:
    kind, agent = overheard.topic.rpartition("/")[2], chance.choice(_IDS)
    topic = chance.choice([topics.up(agent, kind), topics.down(agent, kind), topics.round])
    return Delivery(topic, overheard.payload)


def _fields(payload: bytes) -> list[Any]:
    try:
        return msgspec.msgpack.decode(payload, type=list[Any])
    except msgspec.DecodeError:  # presence, or an empty message
        return [1]


_TRICKS: dict[Trick, Callable[[Delivery, random.Random, Topics], Delivery]] = {
    Trick.REPLAYED: lambda overheard, _, __: overheard,
    Trick.TRUNCATED: _truncated,
    Trick.OVERSIZED: _oversized,
    Trick.NOISE: _noise,
    Trick.NONSENSE: _nonsense,
    Trick.OTHER_KIND: _other_kind,
    Trick.WRONG_SHARD: _wrong_shard,
    Trick.OTHER_TOPIC: _other_topic,
    Trick.FOREIGN: _foreign,
    Trick.FORGED: _forged,
    Trick.FLIPPED: _flipped,
    Trick.IMPERSONATED: _impersonated,
}
