"""The MQTT link: the only module that knows paho. MQTT 3.1.1, QoS 1, clean sessions.

A link reports what happens as events on a queue and never runs anybody's code on its network thread. What is
published while the link is down is dropped (paho sends again only what was under way when it went down): every
exchange is re-established by an idempotent check-in.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from fedprune.errors import BrokerError, ConfigurationError
from fedprune.wire.broker import Broker, Tls
from fedprune.wire.link import Delivery, LinkDown, LinkUp

_log = logging.getLogger(__name__)

_QOS = 1
_KEEPALIVE_S = 30
_CONNECT_TIMEOUT_S = 10.0
_DRAIN_S = 2.0
_LASTING_S = 30.0
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 60.0


class MqttLink:
    """A `Link` over MQTT, which puts `LinkEvent`s on `events` in order.

    Use as a context manager: entering connects, and raises `BrokerError` if that first time fails. After that
    the link reconnects by itself, with exponential back-off and full jitter.
    """

    def __init__(
        self, broker: Broker, client_id: str, events: queue.SimpleQueue[Any], *, will: tuple[str, bytes] | None = None
    ) -> None:
        self._broker = broker
        self._events = events
        self._closing = threading.Event()
        self._refusal: str | None = None
        self._answered = threading.Event()
        self._was_up = False
        self._last: paho.MQTTMessageInfo | None = None
        self._client = self._new_client(client_id, will)
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def __enter__(self) -> MqttLink:
        self._connect()
        self._thread.start()
        if not self._answered.wait(_CONNECT_TIMEOUT_S):
            self._refuse("no answer; is this an MQTT broker?")
        if self._refusal is not None:
            self.close()
            raise BrokerError(f"broker {self._broker.url}: {self._refusal}")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        if not self._client.is_connected():
            return 0
        self._last = self._client.publish(topic, payload, _QOS, retain)
        return len(payload)

    def subscribe(self, topic_filter: str) -> None:
        self._client.subscribe(topic_filter, _QOS)

    def unsubscribe(self, topic_filter: str) -> None:
        self._client.unsubscribe(topic_filter)

    def drain(self) -> None:
        """Wait, at most two seconds, until the broker has what was published last."""
        if self._last is not None and self._client.is_connected():
            with contextlib.suppress(RuntimeError, ValueError):
                self._last.wait_for_publish(_DRAIN_S)

    def close(self) -> None:
        self._closing.set()
        self._client.disconnect()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _new_client(self, client_id: str, will: tuple[str, bytes] | None) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=True,
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _CONNECT_TIMEOUT_S
        if self._broker.username is not None:
            client.username_pw_set(self._broker.username, self._broker.password())
        if self._broker.uses_tls:
            client.tls_set_context(_tls_context(self._broker.tls))
        if will is not None:
            client.will_set(*will, qos=_QOS, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        return client

    def _connect(self) -> None:
        """Raises `BrokerError` if no connection can be opened."""
        try:
            self._client.connect(self._broker.host, self._broker.port, _KEEPALIVE_S)
        except (socket.gaierror, UnicodeError) as error:
            raise BrokerError(f"broker {self._broker.url}: no such host; check the address") from error
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or str(error)
            raise BrokerError(f"broker {self._broker.url}: TLS: {reason}; check broker.tls and the port") from error
        except OSError as error:
            raise BrokerError(
                f"broker {self._broker.url}: {error.strerror or error}; is it running there, and the port right?"
            ) from error

    def _run(self) -> None:
        """The network thread: serve a connection until it ends, then connect again with jitter."""
        attempt = 0
        while True:
            began = time.monotonic()
            self._client.loop_forever(retry_first_connection=False)
            # A connection that does not last counts as a failed attempt: two clients with one id end each other's.
            attempt = 0 if time.monotonic() - began >= _LASTING_S else attempt + 1
            while not self._closing.wait(self._delay(attempt)):
                attempt += 1
                try:
                    self._connect()
                except BrokerError as error:
                    _log.info("%s", error)
                else:
                    break
            if self._closing.is_set():
                return

    @staticmethod
    def _delay(attempt: int) -> float:
        """Full jitter, so that a fleet does not come back at once when its broker does."""
        return random.uniform(0.0, min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2.0 ** min(attempt, 32)))

    def _on_connect(self, _client: object, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        if reason.is_failure:
            self._refuse(f"{str(reason).lower()}; check broker.username, the password and the broker's access list")
        else:
            self._was_up = True
            self._events.put(LinkUp())
            self._answered.set()

    def _on_disconnect(self, _client: object, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        if not self._answered.is_set():
            self._refuse(f"closed the connection ({reason}); is this an MQTT broker, and does it want mqtts://?")
        elif self._was_up and not self._closing.is_set():
            self._was_up = False
            self._events.put(LinkDown(str(reason).lower()))

    def _refuse(self, why: str) -> None:
        """The first connection fails for this reason; a later one is tried again."""
        if self._answered.is_set():
            _log.warning("broker %s: %s", self._broker.url, why)
        else:
            self._refusal = why
            self._answered.set()

    def _on_subscribe(self, _client: object, _data: object, _mid: int, reasons: list[Any], _properties: object) -> None:
        if any(reason.is_failure for reason in reasons):
            who = self._broker.username or "clients without a user name"
            self._events.put(BrokerError(f"broker {self._broker.url}: {who} may not subscribe; check its access list"))

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        self._events.put(Delivery(topic, bytes(message.payload), message.retain))


def _tls_context(tls: Tls) -> ssl.SSLContext:
    for path in (tls.ca, tls.certificate, tls.key):
        if path is not None and not Path(path).is_file():
            raise ConfigurationError(f"broker.tls: {path}: there is no such file; name a PEM file")
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"broker.tls: {error.strerror or error}; are these PEM files?") from error
    return context
