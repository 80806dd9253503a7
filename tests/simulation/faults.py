"""The simulated world's physics: time, a lossy network, disks, and crashes at any operation. One seed decides all."""

from __future__ import annotations

import heapq
import io
import random
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from aggregator.book import NOTHING, AcceptedUpdate, Book, RoundRecord
from aggregator.remembered import NO_SIGNS
from fedprune.wire.link import Delivery

_LONGEST_CUT_S = 100.0
_DRAIN_S = 0.05


class Crash(BaseException):
    """The process is gone, in the middle of whatever it did."""


@dataclass(frozen=True)
class Rates:
    """Probabilities: of a message to be lost or doubled, of a process to crash at one operation, of a link to be cut
    when a message arrives, of training to fail, of an update to be malformed or huge, of somebody to roll the run back
    when the aggregator has crashed."""

    lost: float = 0.08
    doubled: float = 0.08
    crash: float = 0.004
    cut: float = 0.01
    failed: float = 0.05
    spoiled: float = 0.03
    huge: float = 0.1
    rolled_back: float = 0.1


CALM = Rates(lost=0.0, doubled=0.0, crash=0.0, cut=0.0, failed=0.0, spoiled=0.0, huge=0.0, rolled_back=0.0)


class Physics:
    """Simulated time and chance. `trace` is everything that happened, in order, to compare replays."""

    def __init__(self, seed: int, rates: Rates) -> None:
        self.now = 0.0
        self.rates = rates
        self.chance = random.Random(seed)
        self.trace: list[tuple[float, str]] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._scheduled = 0

    def after(self, delay: float, happening: Callable[[], None]) -> None:
        self._scheduled += 1
        heapq.heappush(self._queue, (self.now + delay, self._scheduled, happening))

    def happens(self, probability: float) -> bool:
        return self.chance.random() < probability

    def note(self, what: str) -> None:
        self.trace.append((round(self.now, 9), what))

    def run(self, until: Callable[[], bool]) -> None:
        """Let time pass until the condition holds."""
        while not until():
            assert self._queue, "nothing is left to happen, yet the federation is not done"
            self.now, _, happening = heapq.heappop(self._queue)
            happening()


@dataclass
class Process:
    """One life of a process: crash points consult it, and what reaches it after its death is dropped."""

    name: str
    physics: Physics
    alive: bool = True

    def may_crash(self) -> None:
        if self.physics.happens(self.physics.rates.crash):
            self.physics.note(f"{self.name} crashes")
            raise Crash


class Network:
    """A broker that loses, doubles and reorders. Retained messages and subscriptions are as MQTT's.

    `history` is every message that was ever published.
    """

    def __init__(self, physics: Physics) -> None:
        self._physics = physics
        self.history: list[Delivery] = []
        self._retained: dict[str, bytes] = {}
        self._links: list[SimulatedLink] = []

    def join(self, link: SimulatedLink) -> None:
        self._links = [other for other in self._links if other.process.alive] + [link]

    def publish(self, topic: str, payload: bytes, retain: bool) -> None:
        self.history.append(Delivery(topic, payload))
        if retain:
            self._retained[topic] = payload
        for link in self._links:
            if link.wants(topic):
                self._send(link, topic, payload)

    def subscribed(self, link: SimulatedLink, topic: str) -> None:
        if self._retained.get(topic):
            self._send(link, topic, self._retained[topic])

    def _send(self, link: SimulatedLink, topic: str, payload: bytes) -> None:
        if self._physics.happens(self._physics.rates.lost):
            return
        delivery = Delivery(topic, payload)
        for _ in range(1 + self._physics.happens(self._physics.rates.doubled)):
            self._physics.after(self._physics.chance.expovariate(5.0), lambda: link.arrive(delivery))


@dataclass(eq=False)
class SimulatedLink:
    """A process's link to the simulated broker, with a crash point before and after each operation.

    It is cut now and then, tells so by `went_down`, and by `came_up` when it is there again, without subscriptions.
    A little after something was published it tells so by `drained`.
    """

    process: Process
    network: Network
    receive: Callable[[Delivery], None]
    went_down: Callable[[], None]
    came_up: Callable[[], None]
    drained: Callable[[], None]
    filters: set[str] = field(default_factory=set)
    is_up: bool = True
    is_draining: bool = False
    broker: str = "mqtt://simulated"

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        self.process.may_crash()
        if not self.is_up:
            return 0
        self.network.publish(topic, payload, retain)
        if not self.is_draining:
            self.is_draining = True
            self.process.physics.after(_DRAIN_S, self._drain)
        self.process.may_crash()
        return len(payload)

    def subscribe(self, topic_filter: str) -> None:
        self.process.may_crash()
        if self.is_up:
            self.filters.add(topic_filter)
            self.network.subscribed(self, topic_filter)
        self.process.may_crash()

    def unsubscribe(self, topic_filter: str) -> None:
        self.process.may_crash()
        self.filters.discard(topic_filter)
        self.process.may_crash()

    def wants(self, topic: str) -> bool:
        prefixes = (f[:-1] for f in self.filters if f.endswith(("/#", "/+")))
        return self.process.alive and (topic in self.filters or any(topic.startswith(prefix) for prefix in prefixes))

    def arrive(self, delivery: Delivery) -> None:
        if not self.process.alive or not self.is_up:
            return
        physics = self.process.physics
        if physics.happens(physics.rates.cut):
            physics.note(f"{self.process.name} is cut off")
            self.is_up = False
            self.filters.clear()
            self.went_down()
            physics.after(physics.chance.uniform(0.1, _LONGEST_CUT_S), self._restore)
        else:
            self.receive(delivery)

    def _drain(self) -> None:
        self.is_draining = False
        if self.process.alive and self.is_up:
            self.drained()

    def _restore(self) -> None:
        if self.process.alive:
            self.is_up = True
            self.came_up()


@dataclass(eq=False)
class SimulatedDisk:
    """A disk that outlives its processes; writes are atomic, a crash strikes before or after."""

    blobs: dict[str, bytes]
    process: Process

    def write(self, name: str, blob: bytes) -> None:
        self.process.may_crash()
        self.blobs[name] = blob
        self.process.may_crash()

    def write_through(self, name: str, fill: Callable[[BinaryIO], object]) -> None:
        file = io.BytesIO()
        fill(file)
        self.write(name, file.getvalue())

    def append(self, name: str, data: bytes) -> None:
        self.process.may_crash()
        self.blobs[name] = self.blobs.get(name, b"") + data
        self.process.may_crash()

    def read(self, name: str) -> bytes | None:
        return self.blobs.get(name)

    def delete(self, name: str) -> None:
        self.process.may_crash()
        self.blobs.pop(name, None)
        self.process.may_crash()

    def names(self) -> list[str]:
        return sorted(self.blobs)

    def free(self) -> int:
        return 2**40


class SimulatedBook(Book):
    """The real book, over a connection that outlives its processes; a crash strikes before or after each entry."""

    def __init__(self, connection: sqlite3.Connection, process: Process) -> None:
        self._process = process
        super().__init__(connection)

    def assign(self, round_: int, examples: Mapping[str, int], cap: int) -> None:
        self._process.may_crash()
        super().assign(round_, examples, cap)
        self._process.may_crash()

    def accept(self, round_: int, updates: Mapping[str, AcceptedUpdate], signs: Mapping[str, bytes] = NO_SIGNS) -> None:
        self._process.may_crash()
        super().accept(round_, updates, signs)
        self._process.physics.note(f"{len(updates)} updates are accepted together")
        self._process.may_crash()

    def refuse(self, digests: Mapping[str, bytes]) -> None:
        self._process.may_crash()
        super().refuse(digests)
        self._process.may_crash()

    def finish(
        self, record: RoundRecord, left_out: Mapping[str, str] = NOTHING, apart: Mapping[str, str] = NOTHING
    ) -> None:
        self._process.may_crash()
        super().finish(record, left_out, apart)
        self._process.may_crash()

    def roll_back(self, round_: int, run: str) -> None:
        self._process.may_crash()
        super().roll_back(round_, run)
        self._process.may_crash()
