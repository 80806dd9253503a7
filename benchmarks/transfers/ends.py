"""The two ends of the transfer: both real state machines and the real link, without disk, arithmetic or training."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from aggregator import round_machine, round_state
from aggregator.round_state import Model, Plan, Said
from edge_agent import agent_machine, agent_state
from edge_agent.agent_state import Limits
from edge_agent.history import Durations, RoundsDone
from fedprune.errors import ProtocolError
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
_PIECE_BYTES = 2**20


class Served(msgspec.Struct, frozen=True):
    """The gateway's peak memory beyond what it had with the content, and the bytes of chunks that it published."""

    grown_mb: float
    published_bytes: int


def serve(url: str, size: int, agents: int, pipe: Connection) -> None:
    """Be the gateway: tell through `pipe` once the link is up, serve until told to end, and tell what was `Served`."""
    blob = _model(size)
    content = content_of(blob)
    state = round_state.resume(
        _plan(agents), Model(content, b"w" * 32), 0, assigned={}, cap=0, accepted={}, last_accepted={}, refused={}
    )
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=lambda: events.put(pipe.recv()), daemon=True).start()
    published = 0
    with MqttLink(Broker(url=url), TOPICS.aggregator_client, events) as link:
        before = peak_memory_mb()
        link.subscribe(TOPICS.all_up)
        for event in _taken(events, lambda: round_machine.wake_at(state)):
            match event:
                case LinkUp():
                    link.subscribe(TOPICS.all_up)
                    told: Any = round_state.Connected()
                    pipe.send("up")
                case Drained():
                    told = round_state.LinkDrained()
                case Delivery(topic, payload):
                    agent, kind = TOPICS.parse_up(topic)
                    told = Said(agent, decode(UPLINK[kind], payload))
                case None:
                    told = round_state.Ticked()
                case LinkDown():
                    continue
                case _:
                    break
            for each in (told, round_state.Ticked()):
                state, actions = round_machine.step(state, each, time.monotonic())
                for action in actions:
                    match action:
                        case SendChunk(peer=peer, index=index):
                            topic = TOPICS.content(content.digest) if peer is None else TOPICS.down(peer, "chunk")
                            chunk = chunk_of(blob, content.digest, index, action.chunk_bytes)
                            published += link.publish(topic, encode(chunk))
                        case round_state.Send(agent, message):
                            link.publish(TOPICS.down(agent, kind_of(message)), encode(message))
        pipe.send(Served(round(peak_memory_mb() - before, 1), published))


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
    state = agent_state.start(
        name,
        CheckIn(examples=100),
        _ROOM,
        done=RoundsDone(),
        durations=Durations(),
        tasks=frozenset({_TASK.digest}),
        pending=None,
    )
    received = 0
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with MqttLink(Broker(url=url), TOPICS.agent_client(name), events) as link:
        for event in _taken(events, lambda: state.wake_at):
            match event:
                case LinkUp():
                    for kind in DOWNLINK:
                        link.subscribe(TOPICS.down(name, kind))
                    link.subscribe(TOPICS.round)
                    told: Any = agent_state.Connected()
                case LinkDown():
                    told = agent_state.Disconnected()
                case Delivery(topic, payload):
                    told = decode(_kind(topic), payload)
                    received += len(payload) if isinstance(told, Chunk) else 0
                case _:
                    told = agent_state.Ticked()
            for each in (told, agent_state.Ticked()):
                try:
                    state, actions = agent_machine.step(state, each, time.monotonic())
                except ProtocolError:
                    continue
                for action in actions:
                    match action:
                        case agent_state.Send(message):
                            link.publish(TOPICS.up(name, kind_of(message)), encode(message))
                        case agent_state.Follow(digest):
                            link.subscribe(TOPICS.content(digest))
                        case agent_state.Train():
                            return received
    raise AssertionError


def _kind(topic: str) -> Any:
    if topic == TOPICS.round:
        return Manifest
    return Chunk if "/content/" in topic else DOWNLINK[topic.rpartition("/")[2]]


def _taken(events: queue.SimpleQueue[Any], wake_at: Any) -> Iterator[Any]:
    """The events as they come, and None when the alarm rings."""
    while True:
        alarm = wake_at()
        try:
            yield events.get(timeout=None if alarm is None else max(0.0, alarm - time.monotonic()))
        except queue.Empty:
            yield None


def _model(size: int) -> bytearray:
    """Made piece by piece, so that making it leaves no high-water mark."""
    chance, blob = random.Random(0), bytearray()
    while len(blob) < size:
        blob += chance.randbytes(min(_PIECE_BYTES, size - len(blob)))
    return blob


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
        steps_per_round=1,
        update_values="int8",
        max_update_bytes=1000,
        ticket_key=b"the key of the benchmark",
        examples_cap=10.0,
    )
