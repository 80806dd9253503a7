"""The two ends of the transfer: both real state machines and the real link, without disk, arithmetic or training."""

from __future__ import annotations

import queue
import random
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from aggregator import round_machine, round_state
from aggregator.round_state import Model, Plan, Said
from edge_agent import agent_machine, agent_state
from edge_agent.agent_state import Limits
from edge_agent.history import Durations, RoundsDone
from fedprune.system.usage import peak_memory_mb
from fedprune.wire.broker import Broker
from fedprune.wire.link import Delivery, Drained, LinkDown, LinkUp
from fedprune.wire.messages import DOWNLINK, UPLINK, CheckIn, Chunk, Content, Manifest, decode, encode, kind_of
from fedprune.wire.serving import SendChunk
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import chunk_of, content_of
from fedprune.wire.transport import MqttLink

TOPICS = Topics("transfers")
_TASK = content_of(b"a task that every agent has")
_ROOM = Limits(max_task_bytes=2**31, max_model_bytes=2**31)
_HOURS = 1e5
_END = "end"


class Served(msgspec.Struct, frozen=True):
    """The gateway's peak memory beyond what it had with the content, and the bytes of chunks that it published."""

    grown_mb: float
    published_bytes: int


def serve(url: str, size: int, agents: int, pipe: Connection) -> None:
    """Be the gateway: tell through `pipe` once the link is up, serve until told to end, and tell what was `Served`."""
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=lambda: events.put(pipe.recv()), daemon=True).start()
    blob = _model(size)
    with MqttLink(Broker(url=url), TOPICS.aggregator_client, events) as link:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark counts from now on
        before = peak_memory_mb()
        gateway = _Gateway(link, blob, agents)
        while True:
            event = _next(events, round_machine.wake_at(gateway.state))
            if event == _END:
                break
            gateway.handle(event)
            if isinstance(event, LinkUp):
                pipe.send("up")
        pipe.send(Served(round(peak_memory_mb() - before, 1), gateway.published_bytes))


class _Gateway:
    """The rounds' machine, with one content to serve."""

    def __init__(self, link: MqttLink, blob: bytes, agents: int) -> None:
        self._link, self._blob, self._content = link, blob, content_of(blob)
        model = Model(self._content, b"w" * 32)
        self.published_bytes = 0
        self.state = round_state.resume(
            _plan(agents), model, 0, assigned={}, cap=0, accepted={}, last_accepted={}, refused={}, left_out={}
        )

    def handle(self, event: Any) -> None:
        match event:
            case LinkUp():
                self._link.subscribe(TOPICS.all_up)
                self._step(round_state.Connected())
            case Drained():
                self._step(round_state.LinkDrained())
            case Delivery(topic, payload):
                agent, kind = TOPICS.parse_up(topic)
                self._step(Said(agent, decode(UPLINK[kind], payload)))
        self._step(round_state.Ticked())

    def _step(self, event: round_state.Event) -> None:
        self.state, actions = round_machine.step(self.state, event, time.monotonic())
        for action in actions:
            match action:
                case SendChunk(_, index, chunk_bytes, peer):
                    topic = TOPICS.content(self._content.digest) if peer is None else TOPICS.down(peer, "chunk")
                    chunk = chunk_of(self._blob, self._content.digest, index, chunk_bytes)
                    self.published_bytes += self._link.publish(topic, encode(chunk))
                case round_state.Send(peer, message):
                    self._link.publish(TOPICS.down(peer, kind_of(message)), encode(message))


def receive(url: str, agents: int, pipe: Connection) -> None:
    """Be all the agents, each with a thread and a link of its own, until every one has the model. Tells through `pipe`
    how many bytes of chunks each received."""
    received = [0] * agents

    def one(index: int) -> None:
        received[index] = _fetch(url, f"agent-{index}")

    threads = [threading.Thread(target=one, args=(index,), daemon=True) for index in range(agents)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send(received)


def _fetch(url: str, name: str) -> int:
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with MqttLink(Broker(url=url), TOPICS.agent_client(name), events) as link:
        agent = _Agent(link, name)
        while not agent.has_all:
            agent.handle(_next(events, agent.state.wake_at))
        return agent.received_bytes


class _Agent:
    """The agent's machine, until it would train."""

    def __init__(self, link: MqttLink, name: str) -> None:
        self._link, self._name = link, name
        self.has_all = False
        self.received_bytes = 0
        self.state = agent_state.start(
            name,
            CheckIn(examples=100),
            _ROOM,
            done=RoundsDone(),
            durations=Durations(),
            tasks=frozenset({_TASK.digest}),
            pending=None,
        )

    def handle(self, event: Any) -> None:
        match event:
            case LinkUp():
                for kind in DOWNLINK:
                    self._link.subscribe(TOPICS.down(self._name, kind))
                self._link.subscribe(TOPICS.round)
                self._step(agent_state.Connected())
            case LinkDown():
                self._step(agent_state.Disconnected())
            case Delivery(topic, payload):
                message = decode(_kind(topic, self._name), payload)
                self.received_bytes += len(payload) if isinstance(message, Chunk) else 0
                self._step(message)
        self._step(agent_state.Ticked())

    def _step(self, event: agent_state.Event) -> None:
        self.state, actions = agent_machine.step(self.state, event, time.monotonic())
        for action in actions:
            match action:
                case agent_state.Send(message):
                    self._link.publish(TOPICS.up(self._name, kind_of(message)), encode(message))
                case agent_state.Follow(digest):
                    self._link.subscribe(TOPICS.content(digest))
                case agent_state.Train():
                    self.has_all = True


def _kind(topic: str, agent: str) -> Any:
    if topic == TOPICS.round:
        return Manifest
    return DOWNLINK.get(TOPICS.parse_down(topic, agent), Chunk)


def _next(events: queue.SimpleQueue[Any], alarm: float | None) -> Any:
    """The next event, or None when the alarm rings."""
    try:
        return events.get(timeout=None if alarm is None else max(0.0, alarm - time.monotonic()))
    except queue.Empty:
        return None


def _model(size: int) -> bytes:
    return random.Random(0).randbytes(size)


def _plan(agents: int) -> Plan:
    return Plan(
        run="run",
        incarnation=1,
        rounds=1,
        cohort=agents,
        quorum=agents,
        deadline_s=_HOURS,
        gather_s=_HOURS,
        seed=1,
        task=Content(_TASK.digest, _TASK.size),
        clock_steps_per_round=1,
        codec="mask | int8",
        max_update_bytes=1000,
        ticket_key=b"the key of the benchmark",
        examples_cap=10.0,
    )
