"""Runs the agent's state machine: messages in, actions out. Network, disk and trainer are handed in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import assert_never, cast

from edge_agent import agent_machine
from edge_agent.agent_machine import (
    Action,
    Event,
    Follow,
    KeepTask,
    Send,
    SendUpdate,
    Settle,
    Train,
    Unfollow,
)
from edge_agent.local_round import LocalResult
from edge_agent.store import AgentStore
from fedprune.errors import ProtocolError
from fedprune.wire.link import Delivery, Link
from fedprune.wire.messages import DOWNLINK, CheckIn, Chunk, Manifest, decode, encode, kind_of
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import chunk_of

_log = logging.getLogger(__name__)


class AgentRunner:
    """One agent. `train` is called with each `Train` action and answers later through `finish` or `handle`."""

    def __init__(
        self,
        name: str,
        check_in: CheckIn,
        topics: Topics,
        link: Link,
        store: AgentStore,
        train: Callable[[Train], None],
    ) -> None:
        self.state = agent_machine.start(
            name,
            check_in,
            run=store.run,
            settled=store.settled,
            tasks=store.tasks(),
            pending=store.pending,
        )
        self.ignored = 0
        self._topics = topics
        self._link = link
        self._store = store
        self._train = train

    def connect(self, now: float) -> None:
        """The link is up: subscribe, then say who we are."""
        for kind in DOWNLINK:
            self._link.subscribe(self._topics.down(self.state.name, kind))
        self._link.subscribe(self._topics.round)
        if self.state.phase is agent_machine.Phase.IDLE:
            _log.info("connected; waiting for work")
        self.handle(agent_machine.Connected(), now)

    def deliver(self, delivery: Delivery, now: float) -> None:
        """A message arrived. Whatever is wrong with it, it is counted and ignored."""
        try:
            message = self._decode(delivery)
            if message is not None:
                self.handle(message, now)
        except ProtocolError as error:
            self.ignored += 1
            _log.warning("ignored a message on %s: %s", delivery.topic[:200], error)

    def finish(self, result: LocalResult, now: float) -> None:
        """Training is done: make the update durable, then submit it."""
        self._store.remember(result.submit, result.update, result.slots)
        self.handle(agent_machine.TrainingDone(result.submit), now)

    def handle(self, event: Event, now: float) -> None:
        """Run one transition and its actions."""
        before = self.state.phase
        self.state, actions = agent_machine.step(self.state, event, now)
        if self.state.phase is not before:
            _log.info("%s", self._describe())
        for action in actions:
            self._perform(action)

    def _perform(self, action: Action) -> None:
        match action:
            case Send(message):
                self._link.publish(self._topics.up(self.state.name, kind_of(message)), encode(message))
            case SendUpdate(indexes):
                self._send_update(indexes)
            case Follow(digest):
                self._link.subscribe(self._topics.content(digest))
            case Unfollow(digest):
                self._link.unsubscribe(self._topics.content(digest))
            case KeepTask(digest, blob):
                self._store.keep_task(digest, blob)
            case Train():
                self._train(action)
            case Settle(outcome):
                self._store.settle(outcome)
            case _:
                assert_never(action)

    def _send_update(self, indexes: tuple[int, ...]) -> None:
        submit, blob = self.state.pending, self._store.update()
        assert submit is not None
        for index in indexes:
            chunk = chunk_of(blob, submit.update.digest, index)
            self._link.publish(self._topics.up(self.state.name, "chunk"), encode(chunk))

    def _decode(self, delivery: Delivery) -> Event | None:
        topic, payload = delivery.topic, delivery.payload
        if topic == self._topics.round:
            return decode(Manifest, payload) if payload else None
        kind = topic.rpartition("/")[2]
        if kind in DOWNLINK and topic == self._topics.down(self.state.name, kind):
            return cast(Event, decode(DOWNLINK[kind], payload))
        chunk = decode(Chunk, payload)
        if topic != self._topics.content(chunk.digest):
            raise ProtocolError("a topic we did not ask for")
        return chunk

    def _describe(self) -> str:
        state = self.state
        if state.assignment is not None:
            return f"round {state.assignment.round + 1}: {state.phase.name.lower()}"
        if state.pending is not None:
            return f"round {state.pending.round + 1}: {state.phase.name.lower()} {state.pending.update.size} bytes"
        return "waiting for work"
