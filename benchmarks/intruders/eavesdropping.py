"""A passive listener: all that passes between a device and its gateway is recorded, and searched for what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import msgspec

from benchmarks.intruders.site import Attack, Site
from benchmarks.relay import relayed
from fedprune.identity.audit import Client
from fedprune.identity.joining import AUTHENTICATION_KEY, CERTIFICATE, KEY

_MARK = b"what nobody may read but the aggregator"


def listen(site: Site) -> Iterator[Attack]:
    """Record a device that joins, and one that speaks at the broker."""
    settings, token = site.gateway.settings, site.token("overheard")
    with relayed(settings.enrolment_port, records=True) as at_joining:
        place = site.join(dataclasses.replace(token, port=at_joining.port), "overheard")
    secrets = (token.secret.hex().encode(), (place / AUTHENTICATION_KEY).read_bytes(), b"BEGIN CERTIFICATE REQUEST")
    yield _silent("a listener records a device that joins", at_joining.heard, secrets)

    topic = site.topics.up("overheard", "check-in")
    with relayed(settings.broker_port, records=True) as at_broker:
        broker = msgspec.structs.replace(
            site.broker(place / CERTIFICATE, place / KEY), url=f"mqtts://127.0.0.1:{at_broker.port}"
        )
        with Client(broker, site.topics.agent_client("overheard")) as device, site.rogue_broker() as aggregator:
            aggregator.subscribe(site.topics.all_up)
            aggregator.until(_MARK, lambda: device.publish(topic, _MARK))
    yield _silent("a listener records a device that speaks", at_broker.heard, (_MARK, topic.encode(), b"MQTT"))


def _silent(tried: str, heard: bytes, secrets: tuple[bytes, ...]) -> Attack:
    found = [secret for secret in secrets if secret in heard]
    return Attack(tried, bool(heard) and not found, f"{len(heard)} bytes were recorded")
