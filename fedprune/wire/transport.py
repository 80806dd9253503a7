"""The MQTT link: MQTT 3.1.1, QoS 1, clean sessions.

A link reports what happens as events on a queue and never runs anybody's code on its network thread, which alone talks
to paho once the first connection is made. What is published while the link is down is dropped, and so is what the
broker had not acknowledged when it went down: every exchange is re-established by an idempotent check-in.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from datetime import UTC, datetime
from typing import Any

from fedprune.errors import BrokerError, FedpruneError
from fedprune.system.log import LimitedLog
from fedprune.system.service import SERVICE
from fedprune.wire import refusals
from fedprune.wire.bounded_client import BoundedClient
from fedprune.wire.broker import Broker
from fedprune.wire.inbox import Inbox
from fedprune.wire.link import Delivery, Drained, Events, LinkDown, LinkUp
from fedprune.wire.outbox import MAX_QUEUED_BYTES, Outbox, Publication, Subscription, Unsubscription
from fedprune.wire.packets import MAX_PACKET_BYTES
from fedprune.wire.reconnecting import Pauses
from fedprune.wire.refusals import BrokerUnreachable
from fedprune.wire.subscriptions import Subscriptions
from fedprune.wire.tls import tls_context
from fedprune.wire.waiting import ReasonsToWait
from fedprune.wire.waker import Waker

_log = logging.getLogger(__name__)

QOS = 1
KEEPALIVE_S = 30
CONNECT_TIMEOUT_S = 10.0
_DRAIN_S = 2.0
_CLOSE_S = 5.0
_SHORT_LIVED = 3
"""Connections in a row that did not last, before people are told of the likely reason."""
_LOOK_UP_S = 1.0
"""Seconds after which an idle connection is checked for signs of life."""
_HELD_S = 0.05
"""Seconds after which a link that reads nothing, since its events are not taken, looks again."""


class MqttLink:
    """A `Link` over MQTT, which puts `LinkEvent`s on `events` in order.

    Use as a context manager: entering connects, and raises `BrokerError` if the broker will not have us. One that
    cannot be reached is tried again, as a device at boot has no network yet, and a connection that ends is made again,
    with exponential back-off and full jitter. Names are looked up each time, and where there are several addresses the
    next one is tried, also after one where something answers that does not let us in.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        events: Events,
        *,
        will: tuple[str, bytes] | None = None,
        waits: bool = True,
        is_one_of_many: bool = False,
    ) -> None:
        """`waits`: for a broker that cannot be reached; else entering raises `BrokerUnreachable` then.
        `is_one_of_many`: others lose their connections when this one does, and not all may come back at once."""
        self._addresses = broker.addresses
        self._settings = self._addresses[0]
        self._client_id = client_id
        self._will, self._waits = will, waits
        self._reasons = ReasonsToWait()
        self._pauses = Pauses(is_one_of_many=is_one_of_many)
        if broker.uses_tls:
            tls_context(broker.tls)  # what is wrong with the files is said before anything begins
        self._events = events
        self._inbox = Inbox(events)
        self._outbox = Outbox()
        self._subscriptions = Subscriptions()
        self._waker = Waker()
        self._closing = threading.Event()
        self._refusal: str | None = None
        self._ending = ""
        self._has_subscribed = False
        self._answered = threading.Event()
        self._unsent = LimitedLog(_log)
        self._unsubscribed = LimitedLog(_log, per_minute=1)
        self._oversize = LimitedLog(_log)
        self._cut_off = LimitedLog(_log, per_minute=1)
        self._thread: threading.Thread | None = None

    def __enter__(self) -> MqttLink:
        for others in reversed(range(len(self._addresses))):
            try:
                self._begin()
                break
            except BrokerError as error:
                if not others or self._is_running():
                    raise
                _log.warning("%s (trying another address)", error)
        return self

    def _begin(self) -> None:
        """Connect for the first time. Raises `BrokerError` if the broker that can be reached will not have us."""
        client = self._connect_first()
        self._closing.clear()
        self._answered.clear()
        self._refusal = None
        self._thread = threading.Thread(target=self._run, args=(client,), name="mqtt", daemon=True)
        self._thread.start()
        if not self._answered.wait(CONNECT_TIMEOUT_S):
            self._refuse("no answer; is this an MQTT 3.1.1 broker?")
        if self._refusal is not None:
            self.close()
            refused = self._settings.url
            self._move_on()
            raise BrokerError(f"broker {refused}: {self._refusal}")

    def _is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def broker(self) -> str:
        return self._settings.url

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        if self._outbox.put(Publication(topic, payload, retain)):
            self._waker.wake()
            return len(payload)
        if self._outbox.is_open:
            self._unsent.log(
                logging.WARNING, "not sent to %s: the broker is %d MB behind already", topic, MAX_QUEUED_BYTES // 10**6
            )
        return 0

    def subscribe(self, topic_filter: str) -> None:
        if self._outbox.put(Subscription(topic_filter)):
            self._waker.wake()

    def unsubscribe(self, topic_filter: str) -> None:
        if self._outbox.put(Unsubscription(topic_filter)):
            self._waker.wake()

    def drain(self) -> None:
        """Wait, at most two seconds, until the broker has what was published."""
        self._outbox.wait_until_drained(_DRAIN_S)

    def close(self) -> None:
        self._closing.set()
        self._waker.wake()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    def _connect_first(self) -> BoundedClient:
        """Wait for a broker that cannot be reached: with short pauses at first, even if others wait too."""
        pauses = Pauses()
        while True:
            address = self._settings.url
            try:
                return self._connect()
            except BrokerUnreachable as error:
                if not self._waits:
                    raise
                self._reasons.tell(address, str(error))
            SERVICE.alive()
            time.sleep(pauses.next())

    def _connect(self) -> BoundedClient:
        """Raises `BrokerError` if no connection can be opened, `ConfigurationError` if the password cannot be read."""
        client = self._new_client()
        try:
            client.connect(self._settings.host, self._settings.port, KEEPALIVE_S)
        except (OSError, UnicodeError) as error:
            refusal = refusals.no_connection(self._settings, error, datetime.now(UTC))
            self._move_on()
            raise refusal from error
        return client

    def _move_on(self) -> None:
        """The next address is tried next."""
        self._settings = self._addresses[(self._addresses.index(self._settings) + 1) % len(self._addresses)]

    def _new_client(self) -> BoundedClient:
        """A client for one connection: paho's would say over another one what it has left of the last."""
        client = BoundedClient(self._client_id, self._inbox)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # the outbox bounds them; paho walks over all at each acknowledgement
        if self._settings.username is not None:
            client.username_pw_set(self._settings.username, self._settings.password())  # it may have been changed
        if self._settings.uses_tls:
            client.tls_set_context(tls_context(self._settings.tls))  # its files may have been renewed
        if self._will is not None:
            client.will_set(*self._will, qos=QOS, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        return client

    def _run(self, client: BoundedClient) -> None:
        """The network thread. A bug of ours, or paho's, ends the process, instead of this thread alone."""
        try:
            self._stay_connected(client)
        except Exception as bug:
            self._events.put(bug)

    def _stay_connected(self, client: BoundedClient) -> None:
        """Serve a connection until it ends, then connect again with jitter."""
        while True:
            began = time.monotonic()
            self._serve(client)
            if self._closing.is_set():
                return
            self._pauses.connection_ended(time.monotonic() - began)
            if self._pauses.short_lived and self._pauses.short_lived % _SHORT_LIVED == 0:
                self._cut_off.log(
                    logging.WARNING,
                    "broker %s ends the connection again and again: %s",
                    self._settings.url,
                    self._ending,
                )
            while not self._closing.wait(self._pauses.next()):
                address = self._settings.url
                try:
                    client = self._connect()
                except FedpruneError as error:
                    self._reasons.tell(address, str(error))
                else:
                    break
            if self._closing.is_set():
                return

    def _serve(self, client: BoundedClient) -> None:
        """Read, write and keep alive one connection until it ends."""
        is_leaving = False
        while True:
            self._hand_over(client)
            if self._closing.is_set() and not is_leaving:
                is_leaving = True
                client.disconnect()
            if client.want_write():
                client.loop_write()
            connection = client.socket()
            if connection is None:
                return
            if self._wait(client, connection):
                client.loop_read()
            client.check_life()

    def _hand_over(self, client: BoundedClient) -> None:
        while (command := self._outbox.take()) is not None:
            match command:
                case Publication(topic, payload, retain):
                    self._outbox.sent(command, client.publish(topic, payload, QOS, retain).mid)
                case Subscription(topic_filter):
                    self._ask_for(client, topic_filter)
                case Unsubscription(topic_filter):
                    self._subscriptions.given_up(topic_filter)
                    client.unsubscribe(topic_filter)
        for topic_filter in self._subscriptions.due(time.monotonic()):
            self._ask_for(client, topic_filter)

    def _ask_for(self, client: BoundedClient, topic_filter: str) -> None:
        _, identifier = client.subscribe(topic_filter, QOS)
        if identifier is not None:
            self._subscriptions.asked(identifier, topic_filter)

    def _wait(self, client: BoundedClient, connection: Any) -> bool:
        """Wait for something to do; True if there may be something to read."""
        is_held = self._inbox.is_full()
        has_come = not is_held and client.has_come
        poller = select.poll()
        poller.register(connection, (0 if is_held else select.POLLIN) | (select.POLLOUT if client.want_write() else 0))
        poller.register(self._waker, select.POLLIN)
        ready = dict(poller.poll(1000 * (0 if has_come else _HELD_S if is_held else _LOOK_UP_S)))
        if self._waker.fileno() in ready:
            self._waker.clear()
        return has_come or bool(ready.get(connection.fileno(), 0) & ~select.POLLOUT)

    def _on_connect(self, _client: object, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        if reason.is_failure:
            self._refuse(refusals.refused_connect(self._settings, self._client_id, str(reason).lower()))
        else:
            self._reasons.forget()
            self._outbox.open()
            self._events.put(LinkUp())
            self._answered.set()

    def _on_disconnect(self, client: Any, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        was_up = self._outbox.is_open
        unacknowledged = self._outbox.unacknowledged
        self._outbox.close()
        self._subscriptions = Subscriptions()
        if was_up:
            self._ending = refusals.cut_off(self._client_id, unacknowledged)
        else:
            self._ending = refusals.no_answer(self._settings, client.tls_error)
        if not self._answered.is_set():
            self._refuse(self._ending)
        elif not was_up and self._refusal is None:
            self._move_on()
        elif was_up and not self._closing.is_set():
            self._events.put(LinkDown(str(reason).lower()))

    def _refuse(self, why: str) -> None:
        """The first connection fails for this reason; a later one is tried again."""
        if self._answered.is_set():
            _log.warning("broker %s: %s", self._settings.url, why)
        else:
            self._refusal = why
            self._answered.set()

    def _on_subscribe(self, _client: object, _data: object, mid: int, reasons: list[Any], _properties: object) -> None:
        if any(reason.is_failure for reason in reasons):
            refusal = refusals.refused_subscription(self._settings)
            if self._has_subscribed:  # as a cluster refuses while it chooses a leader
                self._unsubscribed.log(logging.WARNING, "%s; asking again", refusal)
                self._subscriptions.refused(mid, time.monotonic())
            else:
                self._events.put(refusal)
        elif any(reason.value < QOS for reason in reasons):
            self._events.put(refusals.no_qos_1(self._settings))
        else:
            self._has_subscribed = True
            self._subscriptions.granted(mid)

    def _on_publish(self, _client: object, _data: object, mid: int, _reason: object, _properties: object) -> None:
        if self._outbox.acknowledged(mid):
            self._events.put(Drained())

    def _on_message(self, client: Any, _data: object, message: Any) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        if client.has_cut:
            self._oversize.log(
                logging.WARNING, "dropped a message of more than %d bytes on %s", MAX_PACKET_BYTES, topic[:100]
            )
            return
        self._inbox.put(Delivery(topic, bytes(message.payload), message.retain))
