"""All that the aggregator says goes over the link here: with codes where devices have joined, and counted."""

from __future__ import annotations

import logging
from contextlib import suppress

import msgspec

from aggregator.silence import manifests_unheard
from aggregator.traffic import Traffic, TrafficCount, content_bytes
from fedprune.errors import ProtocolError
from fedprune.identity.device_keys import DeviceKeys
from fedprune.system.log import LimitedLog
from fedprune.wire.authentication import add_mac
from fedprune.wire.link import Link
from fedprune.wire.messages import (
    Assignment,
    CheckIn,
    Chunk,
    Manifest,
    Message,
    Rejected,
    encode,
    kind_of,
    versions_of,
)
from fedprune.wire.silence import is_worth_saying
from fedprune.wire.topics import Topics
from fedprune.wire.unsaid import brief_assignment, is_said_by, manifest_context
from fedprune.wire.versions import Versions

_log = logging.getLogger(__name__)

MOST_OLDER = 100_000
"""Agents of an older version that are remembered as such; one that is forgotten is known again by what it says."""


class Speaker:
    """Says things to one agent, or to all. With `keys`, agents without a key are told nothing.

    The first assignment of a round leaves out what the signed manifest says. One that is said again is whole: the
    manifest may not have come.
    """

    def __init__(self, topics: Topics, link: Link, keys: DeviceKeys | None, spoken: Versions) -> None:
        self._topics, self._link, self._keys, self._spoken = topics, link, keys, spoken
        self._agreed: dict[str, int] = {}
        self._count = TrafficCount()
        self._announced: Manifest | None = None
        self._assigned: set[str] = set()
        self._manifests_unheard = 0
        self._warnings = LimitedLog(_log)

    def key(self, agent: str) -> bytes | None:
        """The key that is shared with an agent. Raises `ProtocolError` for one that must not take part."""
        key = None if self._keys is None else self._keys.get(agent)
        if self._keys is not None and key is None:
            raise ProtocolError(f"{agent} has not joined this gateway, or is revoked")
        return key

    def agree(self, agent: str, check_in: CheckIn) -> None:
        """Speak the newest version with an agent that it speaks too, as its check-in says."""
        common = self._spoken.common(versions_of(check_in))
        assert common is not None, "it was decoded"
        self._remember(agent, common)

    def agree_on(self, agent: str, version: int) -> None:
        """Speak the version in which an agent says something else: a gateway that was started anew may hear no check-in
        of one whose update is pending."""
        if version in self._spoken:
            self._remember(agent, version)

    def _remember(self, agent: str, version: int) -> None:
        """What is remembered is who does not speak all."""
        self._agreed.pop(agent, None)
        if version < self._spoken.newest:
            self._agreed[agent] = version
        if len(self._agreed) > MOST_OLDER:
            del self._agreed[next(iter(self._agreed))]

    def tell(self, agent: str, message: Message, what: Traffic = Traffic.MODEL) -> None:
        """Send a message to one agent, unless it was revoked meanwhile. A content in it is for `what`."""
        topic = self._topics.down(agent, kind_of(message))
        if isinstance(message, Rejected):
            message = self._dated(message)
        with suppress(ProtocolError):
            key = self.key(agent)
            said, context = self._brief(agent, message) if key is not None else (message, b"")
            payload = add_mac(key, topic, self._encoded(agent, said), context)
            self._publish(topic, payload, what, content_bytes(message, len(payload)))

    def _brief(self, agent: str, message: Message) -> tuple[Message, bytes]:
        """The message without what the manifest said, and its code's context."""
        manifest = self._announced
        if not isinstance(message, Assignment) or manifest is None or agent in self._assigned:
            return message, b""
        self._assigned.add(agent)
        if not manifest.signature or not is_said_by(manifest, message):
            return message, b""
        return brief_assignment(message), manifest_context(manifest)

    def _encoded(self, agent: str, message: Message) -> bytes:
        return encode(message, self._agreed.get(agent, self._spoken.newest), self._spoken)

    def broadcast(self, chunk: Chunk, what: Traffic, followers: int) -> None:
        """Send a chunk to so many that follow its content."""
        payload = encode(chunk, spoken=self._spoken)
        self._publish(self._topics.content(chunk.digest), payload, what, len(payload), max(1, followers))

    def announce(self, manifest: Manifest, agents: int) -> None:
        """Publish the manifest, to so many agents. The broker sends it back: one that never does may not take it."""
        if is_worth_saying(self._manifests_unheard):
            self._warnings.log(logging.WARNING, "%s", manifests_unheard(self._topics, self._link.broker))
        self._manifests_unheard += 1
        if manifest != self._announced:
            self._assigned.clear()
        self._announced = manifest
        topic = self._topics.round
        self._publish(
            topic, encode(manifest, spoken=self._spoken), Traffic.CONTROL, 0, agents, retain=not manifest.done
        )
        if manifest.done:
            self._publish(topic, b"", Traffic.CONTROL, 0, agents, retain=True)

    def _dated(self, rejected: Rejected) -> Rejected:
        """A rejection that says of which time it is, where manifests are signed: it cannot be sent again later."""
        now = self._announced
        if now is None or not now.signature:
            return rejected
        return msgspec.structs.replace(rejected, epoch=now.epoch, incarnation=now.incarnation, round=now.round)

    def heard_manifest(self) -> None:
        self._manifests_unheard = 0

    def take_count(self) -> TrafficCount:
        """All that was said since the last time."""
        count, self._count = self._count, TrafficCount()
        return count

    def _publish(
        self, topic: str, payload: bytes, what: Traffic, content: int, receivers: int = 1, *, retain: bool = False
    ) -> None:
        """Publish and count; `content` bytes of the payload are for `what`."""
        if self._link.publish(topic, payload, retain=retain) or not payload:
            self._count.add(topic, len(payload), what, content, receivers)
