"""A passive listener: all that passes between a device and its gateway is recorded, and searched for what it says."""

from __future__ import annotations

import dataclasses
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec

from benchmarks.intruders.site import Attack, Site
from fedprune.identity.audit import Client
from fedprune.identity.joining import AUTHENTICATION_KEY, CERTIFICATE, KEY

_MARK = b"what nobody may read but the aggregator"
_AT_ONCE = 64 * 1024


def listen(site: Site) -> Iterator[Attack]:
    """Record a device that joins, and one that speaks at the broker."""
    settings, token = site.gateway.settings, site.token("overheard")
    with _recorded(settings.enrolment_port) as at_joining:
        place = site.join(dataclasses.replace(token, port=at_joining.port), "overheard")
    secrets = (token.secret.hex().encode(), (place / AUTHENTICATION_KEY).read_bytes(), b"BEGIN CERTIFICATE REQUEST")
    yield _silent("a listener records a device that joins", at_joining.heard, secrets)

    topic = site.topics.up("overheard", "check-in")
    with _recorded(settings.broker_port) as at_broker:
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


class _Recording:
    """What passed both ways."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heard = b""
        self._lock = threading.Lock()

    def relay(self, source: socket.socket, target: socket.socket) -> None:
        """Pass on what comes until one side hangs up, then tell the other."""
        with suppress(OSError):
            while data := source.recv(_AT_ONCE):
                with self._lock:
                    self.heard += data
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextmanager
def _recorded(port: int) -> Iterator[_Recording]:
    """A relay in front of a port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        recording = _Recording(server.getsockname()[1])
        threading.Thread(target=_accept, args=(server, recording, port), daemon=True).start()
        yield recording
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket, recording: _Recording, port: int) -> None:
    with suppress(OSError):
        while True:
            client, _ = server.accept()
            target = socket.create_connection(("127.0.0.1", port))
            for source, other in ((client, target), (target, client)):
                threading.Thread(target=recording.relay, args=(source, other), daemon=True).start()
