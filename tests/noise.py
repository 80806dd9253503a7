"""An intruder on a real broker: answers whatever it overhears with what no receiver may heed."""

from __future__ import annotations

import itertools
import queue
import threading
from collections import Counter
from types import TracebackType
from typing import Any

from fedprune.wire.broker import Broker
from fedprune.wire.link import Delivery, LinkUp
from fedprune.wire.messages import MAX_MESSAGE_BYTES
from fedprune.wire.topics import Topics
from fedprune.wire.transport import MqttLink
from tests.simulation.intruder import HARMLESS, Mischief


class Noise:
    """Talks on every topic of a federation until the context is left. `sent` counts what it said."""

    def __init__(self, url: str, federation: str) -> None:
        self.sent = 0
        self._topics = Topics(federation)
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._link = MqttLink(Broker(url=url), "intruder", self._events)
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._own: Counter[tuple[str, bytes]] = Counter()

    def __enter__(self) -> Noise:
        self._link.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._events.put(None)
        self._thread.join()
        self._link.close()

    def _talk(self) -> None:
        mischiefs = (Mischief(trick, number) for number, trick in enumerate(itertools.cycle(HARMLESS)))
        while (event := self._events.get()) is not None:
            if isinstance(event, LinkUp):
                self._link.subscribe(f"fp/{self._topics.federation}/#")
            elif isinstance(event, Delivery) and not self._is_own(event):
                for mischief in itertools.islice(mischiefs, 3):
                    self._say(mischief.of(event, self._topics))

    def _is_own(self, heard: Delivery) -> bool:
        """Brokers send to everybody who subscribed, the speaker included."""
        said = (heard.topic, heard.payload)
        if not self._own[said]:
            return False
        self._own[said] -= 1
        return True

    def _say(self, message: Delivery) -> None:
        if message.payload and self._link.publish(message.topic, message.payload):
            self.sent += 1
            if len(message.payload) <= MAX_MESSAGE_BYTES:  # larger ones do not come back
                self._own[message.topic, message.payload] += 1
