"""Attacks on a gateway's broker, really tried: who may do what is proven by crossing it.

A broker whose access list is wrong lets the attacks through to the federation that it serves: they are messages that
every agent and every aggregator drops as nonsense, and what is retained of them is taken back.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from fedprune.errors import BrokerError
from fedprune.identity.audit import ATTACKER, PATIENCE_S, VICTIM, Client, Scene, forgery
from fedprune.identity.gateway import BROKER, CONFIGURATION, Gateway
from fedprune.identity.mosquitto import MAX_PACKET_BYTES, NO_CONTENT
from fedprune.system.disk import Directory
from fedprune.system.paths import shell_text
from fedprune.wire.broker import Broker
from fedprune.wire.link import Delivery
from fedprune.wire.topics import Topics


class Crossing(msgspec.Struct, frozen=True):
    """Something that was tried, and whether the broker let it pass: `must_pass` says whether it should."""

    tried: str
    must_pass: bool
    passed: bool

    @property
    def is_right(self) -> bool:
        return self.must_pass == self.passed


def cross_all(gateway: Gateway) -> Iterator[Crossing]:
    """Try everything at the gateway's broker, which has to run. Takes some seconds.

    Raises `BrokerError` if it cannot be reached, or if not even that works which has to.
    """
    _await_broker(gateway)
    with tempfile.TemporaryDirectory(prefix="fedprune-check-") as scratch:
        scene = Scene(gateway, Directory(Path(scratch)))
        for attempt in _ATTEMPTS:
            yield from attempt(scene)


def _await_broker(gateway: Gateway) -> None:
    try:
        socket.create_connection(("127.0.0.1", gateway.settings.broker_port), PATIENCE_S).close()
    except OSError as error:
        raise BrokerError(
            f"broker {gateway.broker_url}: {error.strerror or error}; start it: "
            f"mosquitto -c {shell_text(gateway.path / CONFIGURATION)}"
        ) from error


def _foreign_topics(topics: Topics) -> dict[str, str]:
    """The topics on which the attacker may not publish, by what they are."""
    return {
        "to the aggregator as another device": topics.up(VICTIM, "check-in"),
        "another device's presence": topics.status(VICTIM),
        "to another device as the aggregator": topics.down(VICTIM, "assignment"),
        "to itself as the aggregator": topics.down(ATTACKER, "assignment"),
        "a manifest": topics.round,
        "a chunk of a content": topics.content(NO_CONTENT),
    }


def _publish_as_others(scene: Scene) -> Iterator[Crossing]:
    forged = {topic: forgery() for topic in _foreign_topics(scene.topics).values()}
    with scene.auditor() as (auditor, _), scene.attacker() as attacker:
        for topic, payload in forged.items():
            attacker.publish(topic, payload)
        came = {found.payload for found in scene.fence_up(attacker, auditor)}
    yield Crossing("a device publishes on its own topics", must_pass=True, passed=True)
    for what, topic in _foreign_topics(scene.topics).items():
        yield Crossing(f"a device publishes {what}", must_pass=False, passed=forged[topic] in came)


def _leave_retained(scene: Scene) -> Iterator[Crossing]:
    forged = {topic: forgery() for topic in _foreign_topics(scene.topics).values()}
    with scene.auditor() as (auditor, before), scene.attacker() as attacker:
        for topic, payload in forged.items():
            attacker.publish(topic, payload, retain=True)
        scene.fence_up(attacker, auditor)
    with scene.auditor() as (_, retained):
        left = [found for found in retained if found.payload in forged.values()]
    _take_back(scene, before, left)
    for what, topic in _foreign_topics(scene.topics).items():
        passed = any(found.topic == topic for found in left)
        yield Crossing(f"a device leaves behind, retained, {what}", must_pass=False, passed=passed)


def _take_back(scene: Scene, before: Sequence[Delivery], left: Sequence[Delivery]) -> None:
    """Put what was retained before in the place of what was left: who could do that can undo it."""
    former = {found.topic: found.payload for found in before if found.retained}
    if left:
        with scene.auditor() as (auditor, _), scene.attacker() as attacker:
            for found in left:
                attacker.publish(found.topic, former.get(found.topic, b""), retain=True)
            scene.fence_up(attacker, auditor)


def _read_everything(scene: Scene) -> Iterator[Crossing]:
    """The attacker subscribes to everything, by wildcards and by name; then the others talk."""
    topics = scene.topics
    secret = {
        "what another device sends": topics.up(VICTIM, "submit"),
        "another device's presence": topics.status(VICTIM),
        "what another device is sent": topics.down(VICTIM, "assignment"),
    }
    content = topics.content(NO_CONTENT)
    with scene.auditor() as (auditor, _), scene.attacker() as attacker, scene.victim() as victim:
        for topic_filter in (
            "#",
            "$SYS/#",
            topics.all_up,
            topics.all_down,
            topics.all_status,
            content,
            *secret.values(),
        ):
            attacker.subscribe(topic_filter)
        scene.fence_up(attacker, auditor)  # the subscriptions are in force
        for sender, topic in zip((victim, victim, auditor), secret.values(), strict=True):
            sender.publish(topic, forgery())
        auditor.publish(content, forgery())
        scene.fence_up(victim, auditor, VICTIM)
        came = {found.topic for found in scene.fence_down(auditor, attacker, ATTACKER)}
    yield Crossing("a device reads what it is sent", must_pass=True, passed=True)
    yield Crossing("a device reads a content", must_pass=True, passed=content in came)
    for what, topic in secret.items():
        yield Crossing(f"a device reads {what}", must_pass=False, passed=topic in came)
    told = any(topic.startswith("$SYS") for topic in came)
    yield Crossing("a device reads what the broker tells of itself", must_pass=False, passed=told)


def _take_a_client_id(scene: Scene) -> Iterator[Crossing]:
    with scene.auditor() as (auditor, _), scene.victim() as victim:
        victim.subscribe(scene.topics.all_down_to(VICTIM))
        scene.fence_up(victim, auditor, VICTIM)
        with scene.attacker(client_id=scene.topics.agent_client(VICTIM)) as attacker:
            scene.fence_up(attacker, auditor)
            scene.fence_down(auditor, victim, VICTIM)
        yield Crossing("a device ends another's connection by its id", must_pass=False, passed=victim.was_cut_off)


def _take_a_name(scene: Scene) -> Iterator[Crossing]:
    forged = forgery()
    with scene.auditor() as (auditor, _), scene.attacker(username=VICTIM) as attacker:
        attacker.publish(scene.topics.up(VICTIM, "check-in"), forged)
        came = {found.payload for found in scene.fence_up(attacker, auditor)}
    yield Crossing("a device gives another's user name", must_pass=False, passed=forged in came)


def _leave_a_will(scene: Scene) -> Iterator[Crossing]:
    """A will is published once its author comes again without having said goodbye."""
    for what, topic in (("as another's presence", scene.topics.status(VICTIM)), ("as a manifest", scene.topics.round)):
        forged = forgery()
        left: list[Delivery] = []
        with scene.auditor() as (auditor, before):
            try:
                with scene.attacker(will=(topic, forged)), scene.attacker() as again:
                    left = [found for found in scene.fence_up(again, auditor) if found.payload == forged]
            except BrokerError:  # it does not take such a will
                pass
        _take_back(scene, before, left)
        yield Crossing(f"a device leaves a will {what}", must_pass=False, passed=bool(left))


def _send_too_much(scene: Scene) -> Iterator[Crossing]:
    oversize = forgery().ljust(MAX_PACKET_BYTES + 1)
    with scene.auditor() as (auditor, _), scene.attacker() as attacker:
        attacker.subscribe(scene.topics.all_down_to(ATTACKER))
        attacker.publish(scene.topics.up(ATTACKER, "chunk"), oversize)
        scene.fence_up(attacker, auditor)
        scene.fence_down(auditor, attacker, ATTACKER)
        yield Crossing(f"a packet of {len(oversize)} bytes", must_pass=False, passed=not attacker.was_cut_off)


def _come_with_wrong_papers(scene: Scene) -> Iterator[Crossing]:
    url = scene.broker(None).url
    papers = {
        "a client without a certificate connects": scene.broker(None),
        "a client with another authority's certificate connects": scene.broker("foreign"),
        "a client with a certificate that has expired connects": scene.broker("expired"),
        "a client with the broker's own certificate connects": scene.broker(BROKER),
        "a client without TLS connects": Broker(url.replace("mqtts:", "mqtt:")),
    }
    for what, broker in papers.items():
        yield Crossing(what, must_pass=False, passed=_is_let_in(broker))


def _is_let_in(broker: Broker) -> bool:
    try:
        with Client(broker, "fedprune gateway check"):
            return True
    except BrokerError:
        return False


_ATTEMPTS: tuple[Callable[[Scene], Iterator[Crossing]], ...] = (
    _publish_as_others,
    _leave_retained,
    _read_everything,
    _take_a_client_id,
    _take_a_name,
    _leave_a_will,
    _send_too_much,
    _come_with_wrong_papers,
)
