"""Those who take part when a broker is tried: two devices that are played, and an auditor that reads everything.

That nothing comes is no proof, for it may come later: so after each attack its author sends a *fence*, which is
allowed. A broker handles one client's packets in order: once the fence has come, what has not come before never will.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

from fedprune.errors import BrokerError
from fedprune.identity import gateway as files
from fedprune.identity.certificates import Credentials, issue_client, new_authority
from fedprune.identity.gateway import Gateway
from fedprune.identity.mosquitto import PROBES, auditor_name
from fedprune.system.disk import Directory
from fedprune.wire.broker import Broker, Tls
from fedprune.wire.link import Delivery, Drained, LinkDown, LinkUp
from fedprune.wire.topics import Topics
from fedprune.wire.transport import MqttLink

PATIENCE_S = 20.0
"""For what must come: a broker on a small Pi, under load, is given time."""

_AGAIN_S = 2.0
"""After which a fence is sent once more: a connection that was lost has taken the first one with it."""

_LIFETIME = timedelta(hours=1)
"""Of the certificates with which devices are played."""

ATTACKER, VICTIM = PROBES


def forgery() -> bytes:
    """Nonsense that nobody has sent before. (A message of the protocol begins with a map: 0x80 to 0x8f, 0xde, 0xdf.)"""
    return b"fedprune gateway check " + secrets.token_hex(16).encode()


class Client:
    """A client at the broker, and what it is delivered. Use as a context manager."""

    def __init__(self, broker: Broker, client_id: str, will: tuple[str, bytes] | None = None) -> None:
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._link = MqttLink(broker, client_id, self._events, will=will, waits=False)
        self._filters: list[str] = []
        self.was_cut_off = False

    def __enter__(self) -> Client:
        self._link.__enter__()
        self._events.get()  # its `LinkUp`, which came before that returned
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link.__exit__(kind, error, trace)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """The number of bytes that will be sent: 0 while the broker is far behind."""
        return self._link.publish(topic, payload, retain=retain)

    def subscribe(self, topic_filter: str) -> None:
        self._filters.append(topic_filter)
        self._link.subscribe(topic_filter)

    def until(self, fence: bytes, send: Callable[[], object]) -> list[Delivery]:
        """What is delivered before the message with the payload `fence`, which `send` sends, and again if need be.

        Raises `BrokerError` if it does not come.
        """
        found: list[Delivery] = []
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            send()
            again = time.monotonic() + _AGAIN_S
            while (event := self._next_event(again)) is not None:
                match event:
                    case Delivery() if event.payload == fence:
                        return found
                    case Delivery():
                        found.append(event)
                    case LinkDown():
                        self.was_cut_off = True
                    case LinkUp():  # a new connection, for which the broker remembers nothing
                        for topic_filter in self._filters:
                            self._link.subscribe(topic_filter)
                    case Drained() | BrokerError():  # the last: a broker that refuses a subscription
                        pass
                    case bug:
                        raise bug
        raise BrokerError(
            f"broker {self._link.broker}: not even what a device may do works; start it with the configuration that "
            "`fedprune gateway init` wrote"
        )

    def _next_event(self, deadline: float) -> Any:
        """None once it is time."""
        try:
            return self._events.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None


class Scene:
    """The gateway whose broker is tried, and whoever takes part."""

    def __init__(self, gateway: Gateway, scratch: Directory) -> None:
        self._gateway = gateway
        self._scratch = scratch
        self.topics = Topics(gateway.settings.federation)
        now = datetime.now(UTC)
        for name in (*PROBES, auditor_name(gateway.settings.federation)):
            self.add(name, issue_client(gateway.authority, name, now, _LIFETIME))
        self.add("expired", issue_client(gateway.authority, ATTACKER, now, -_LIFETIME))
        self.add("foreign", issue_client(new_authority("somebody else", now), ATTACKER, now))
        self.add(files.BROKER, gateway.credentials(files.BROKER))

    def add(self, name: str, credentials: Credentials) -> None:
        self._scratch.write(f"{name}.pem", credentials.certificate)
        self._scratch.write_private(f"{name}.key", credentials.key)

    def broker(self, certificate: str | None, username: str | None = None) -> Broker:
        """The broker's address, for who has this certificate."""
        tls = Tls(ca=str(self._gateway.path / f"{files.AUTHORITY}.pem"))
        if certificate is not None:
            path = self._scratch.path
            tls = Tls(tls.ca, str(path / f"{certificate}.pem"), str(path / f"{certificate}.key"))
        return Broker(self._gateway.broker_url, username, tls=tls)

    def attacker(
        self, *, client_id: str = "", username: str | None = None, will: tuple[str, bytes] | None = None
    ) -> Client:
        return Client(self.broker(ATTACKER, username), client_id or self.topics.agent_client(ATTACKER), will)

    def victim(self) -> Client:
        return Client(self.broker(VICTIM), self.topics.agent_client(VICTIM))

    @contextlib.contextmanager
    def auditor(self) -> Iterator[tuple[Client, list[Delivery]]]:
        """Who reads everything, and what was retained when it came."""
        name = auditor_name(self._gateway.settings.federation)
        with Client(self.broker(name), name) as auditor:
            auditor.subscribe(self.topics.everything)
            yield auditor, self.fence_down(auditor, auditor, ATTACKER)

    def fence_up(self, author: Client, auditor: Client, name: str = ATTACKER) -> list[Delivery]:
        """What reached the auditor before a message of the device `name`, which is allowed."""
        topic, fence = self.topics.up(name, "fence"), forgery()
        return auditor.until(fence, lambda: author.publish(topic, fence))

    def fence_down(self, auditor: Client, reader: Client, name: str) -> list[Delivery]:
        """What reached `reader` before a message of the auditor to the device `name`."""
        topic, fence = self.topics.down(name, "fence"), forgery()
        return reader.until(fence, lambda: auditor.publish(topic, fence))
