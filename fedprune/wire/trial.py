"""One connection for a trial: what a broker lets a client do, as the broker itself says it.

MQTT 5 gives reasons, where 3.1.1 acknowledges what a broker drops: so a trial speaks 5, and 3.1.1 to a broker that has
no other. Everything happens on the caller's thread.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from types import TracebackType
from typing import Any

from fedprune.errors import BrokerError
from fedprune.wire import refusals
from fedprune.wire.bounded_client import BoundedClient
from fedprune.wire.broker import Broker
from fedprune.wire.inbox import Inbox
from fedprune.wire.link import Delivery
from fedprune.wire.tls import tls_context
from fedprune.wire.transport import CONNECT_TIMEOUT_S, KEEPALIVE_S, QOS

_ANSWER_S = 10.0
"""For a broker's answer to one packet."""

_LOOK_UP_S = 0.2
_MOST_DELIVERIES = 1000
"""Messages that are kept; others are dropped."""

_NOBODY, _DENIED = 0x10, 0x87
"""MQTT 5, section 3.4.2.1: "no matching subscribers", and "not authorized"."""


class Answer(Enum):
    """What became of a message that was published."""

    TAKEN = "somebody is subscribed to its topic"
    NOBODY = "it may be published, and nobody is subscribed to its topic"
    DENIED = "it may not be published"
    UNTOLD = "the broker acknowledged it, and does not tell what became of it"


class LoginRefused(BrokerError):
    """The broker can be reached, and does not let this client in."""


class Trial:
    """A client at a broker. Use as a context manager: entering raises `BrokerError` if it is not let in."""

    def __init__(self, broker: Broker, client_id: str) -> None:
        self._broker = broker
        self._client_id = client_id
        self._client: Any = None
        self._speaks_5 = True
        self._connected: Any = None
        self._acknowledged: dict[int, int] = {}
        self._granted: dict[int, list[bool]] = {}
        self.deliveries: list[Delivery] = []
        """What came so far."""

    def __enter__(self) -> Trial:
        try:
            self._connect()
        except _OnlyOlder:
            self._speaks_5 = False
            self._connect()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._client.disconnect()
        with contextlib.suppress(OSError):
            self._client.loop(_LOOK_UP_S)

    def subscribe(self, topic_filter: str) -> bool:
        """True if the broker grants it. Raises `BrokerError` if it does not answer."""
        _, number = self._client.subscribe(topic_filter, QOS)
        self._until(lambda: number in self._granted)
        return all(self._granted[number])

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> Answer:
        """What became of a message. Raises `BrokerError` if the broker does not answer."""
        number = self._client.publish(topic, payload, QOS, retain).mid
        self._until(lambda: number in self._acknowledged)
        reason = self._acknowledged[number]
        if reason == _DENIED:
            return Answer.DENIED
        if not self._speaks_5:
            return Answer.UNTOLD
        return Answer.NOBODY if reason == _NOBODY else Answer.TAKEN

    def hears(self, is_wanted: Callable[[Delivery], bool], seconds: float) -> bool:
        """Wait for a message that is wanted, or for one that came already."""
        with contextlib.suppress(BrokerError):
            self._until(lambda: any(map(is_wanted, self.deliveries)), seconds)
            return True
        return False

    def _connect(self) -> None:
        broker = self._broker
        client = BoundedClient(self._client_id, Inbox(queue.SimpleQueue()), speaks_5=self._speaks_5)
        client.connect_timeout = CONNECT_TIMEOUT_S
        if broker.username is not None:
            client.username_pw_set(broker.username, broker.password())
        if broker.uses_tls:
            client.tls_set_context(tls_context(broker.tls))
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        self._client, self._connected = client, None
        try:
            client.connect(broker.host, broker.port, KEEPALIVE_S)
        except (OSError, UnicodeError) as error:
            raise refusals.no_connection(broker, error, datetime.now(UTC)) from error
        try:
            self._until(lambda: self._connected is not None, CONNECT_TIMEOUT_S)
        except BrokerError as error:
            if self._speaks_5:  # a broker that does not know it may hang up
                raise _OnlyOlder from error
            raise LoginRefused(f"broker {broker.url}: {refusals.no_answer(broker, client.tls_error)}") from error
        if self._connected.is_failure:
            reason = str(self._connected).lower()
            if self._speaks_5 and "protocol version" in reason:
                raise _OnlyOlder
            told = refusals.refused_connect(broker, self._client_id, reason)
            raise LoginRefused(f"broker {broker.url}: {told}")

    def _until(self, is_so: Callable[[], bool], seconds: float = _ANSWER_S) -> None:
        """Read and write until something is so. Raises `BrokerError` if it does not become so in time."""
        deadline = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() >= deadline:
                raise BrokerError(f"broker {self._broker.url}: no answer in {seconds:.0f} s; is it overloaded?")
            if self._read_and_write():
                if is_so():  # it answered, and then hung up
                    return
                raise BrokerError(f"broker {self._broker.url}: it ended the connection; what does its log say?")

    def _read_and_write(self) -> bool:
        """Do both, or wait a while for something to read; True if the connection has ended."""
        has_come = self._client.has_come  # of this the socket does not tell
        return bool((has_come and self._client.loop_read()) or self._client.loop(0.0 if has_come else _LOOK_UP_S))

    def _on_connect(self, _: object, __: object, ___: object, reason: Any, ____: object) -> None:
        self._connected = reason

    def _on_message(self, _: object, __: object, message: Any) -> None:
        if len(self.deliveries) < _MOST_DELIVERIES:
            with contextlib.suppress(UnicodeDecodeError):
                self.deliveries.append(Delivery(message.topic, bytes(message.payload), message.retain))

    def _on_publish(self, _: object, __: object, number: int, reason: Any, ____: object) -> None:
        self._acknowledged[number] = reason.value

    def _on_subscribe(self, _: object, __: object, number: int, reasons: list[Any], ____: object) -> None:
        self._granted[number] = [not reason.is_failure for reason in reasons]


class _OnlyOlder(Exception):
    """The broker does not speak MQTT 5, or says nothing to it."""
