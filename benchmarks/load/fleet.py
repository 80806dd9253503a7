"""A fleet of agents in one process. Each has its own connection, says what a real one says, and sends an update that
was really encoded. They train nothing: `KINDS` updates of a round are drawn, and shared out over the agents.
"""

from __future__ import annotations

import selectors
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.load.mqtt import Connection
from edge_agent.held_model import HeldModel
from edge_agent.round_model import RoundModel, round_model
from fedprune.codecs import Key, encode_update, moved_since, parse_codec
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorClass
from fedprune.pruning.masks import take_kept
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle, load_bundle
from fedprune.wire.messages import (
    MAX_INLINE_BYTES,
    Assignment,
    CheckIn,
    Chunk,
    Content,
    Manifest,
    Message,
    Rejected,
    Submit,
    Terms,
    decode,
    encode,
    kind_of,
)
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import CHUNK_SIZES, chunk_count, chunk_of, content_of, need_of

KINDS = 100
"""Different updates of a round."""
_EXAMPLES = 100
_AGAIN_S = 20.0
"""After which an agent without work offers itself again."""
_OPENED_AT_ONCE = 200
"""Connections that are opened before what came over the others is read."""


class FleetReport(msgspec.Struct, frozen=True):
    """Bytes over all sockets of the fleet, both ways, and of what was published, since the last report."""

    socket_bytes: int
    payload_bytes: int


@dataclass
class _Agent:
    number: int
    name: str
    connection: Connection
    incarnation: int = 0
    ticket: bytes = b""
    terms: Terms | None = None
    assignment: Assignment | None = None
    lacks: int = 0
    """Chunks of the model that have not come."""
    submitted: int = -1
    """The last round of which it has sent its update."""


@dataclass
class _Round:
    """The updates that the fleet sends in a round."""

    number: int
    updates: list[bytes]


class Fleet:
    """Takes part until the federation is done."""

    def __init__(self, count: int, port: int, federation: str, bundle: Bundle, state: Path) -> None:
        self._topics, self._bundle = Topics(federation), bundle
        self._held = HeldModel(Directory(state))
        self._selector = selectors.DefaultSelector()
        self._agents: list[_Agent] = []
        self._round: _Round | None = None
        self._pieces: dict[bytes, dict[int, bytes]] = {}
        self._payload = 0
        self._is_done = False
        for number in range(count):
            self._open(number, port)
            if number % _OPENED_AT_ONCE == 0:
                self._turn(0.0)

    def run(self) -> FleetReport:
        """Serve until the federation is done."""
        again_at = time.monotonic() + _AGAIN_S
        while not self._is_done:
            self._turn(_AGAIN_S)
            if time.monotonic() >= again_at:
                self._offer_again()
                again_at = time.monotonic() + _AGAIN_S
        connections = [agent.connection for agent in self._agents]
        return FleetReport(sum(each.bytes_in + each.bytes_out for each in connections), self._payload)

    def _open(self, number: int, port: int) -> None:
        name = f"a{number}"
        agent = _Agent(number, name, Connection(port, self._topics.agent_client(name)))
        self._agents.append(agent)
        agent.connection.subscribe(self._topics.all_down_to(name))
        agent.connection.subscribe(self._topics.round)
        agent.connection.write()
        self._selector.register(agent.connection.socket, selectors.EVENT_READ, agent)

    def _turn(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout):
            agent: _Agent = key.data
            for topic, payload in agent.connection.read():
                self._payload += len(payload)
                self._hear(agent, topic, payload)
            agent.connection.write()
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if agent.connection.wants_to_write else 0)
            if wanted != key.events:
                self._selector.modify(agent.connection.socket, wanted, agent)

    def _hear(self, agent: _Agent, topic: str, payload: bytes) -> None:
        if topic == self._topics.round:
            self._hear_manifest(agent, payload)
            return
        kind = (
            "chunk" if topic.startswith(self._topics.all_content[:-1]) else self._topics.parse_down(topic, agent.name)
        )
        match kind:
            case "rejected":
                self._show_ticket(agent, decode(Rejected, payload))
            case "assignment":
                self._take(agent, decode(Assignment, payload))
            case "chunk":
                self._gather(agent, decode(Chunk, payload))

    def _hear_manifest(self, agent: _Agent, payload: bytes) -> None:
        if not payload:
            return
        manifest = decode(Manifest, payload)
        self._is_done = self._is_done or manifest.done
        if agent.incarnation != manifest.incarnation:  # the gateway heard nothing that was said before
            agent.incarnation = manifest.incarnation
            self._say(agent, CheckIn(examples=_EXAMPLES, trainer="litert", ticket=agent.ticket))

    def _offer_again(self) -> None:
        """The gateway gives so many tickets in a second, and forgets who was not heard for long."""
        for agent in self._agents:
            if agent.assignment is None:
                self._say(agent, CheckIn(examples=_EXAMPLES, trainer="litert", ticket=agent.ticket))
                agent.connection.write()

    def _show_ticket(self, agent: _Agent, rejected: Rejected) -> None:
        if rejected.ticket and rejected.ticket != agent.ticket:
            agent.ticket = rejected.ticket
            self._say(agent, CheckIn(examples=_EXAMPLES, trainer="litert", ticket=agent.ticket))

    def _take(self, agent: _Agent, assignment: Assignment) -> None:
        agent.terms = assignment.terms or agent.terms
        if assignment.round <= agent.submitted or agent.terms is None:
            return
        agent.assignment, agent.lacks = msgspec.structs.replace(assignment, terms=agent.terms), 0
        model = assignment.model
        if isinstance(model, Content):  # as a real agent, each fetches it
            agent.lacks = chunk_count(model.size, CHUNK_SIZES[0])
            agent.connection.subscribe(self._topics.content(model.digest))
            self._say(agent, need_of(model, range(agent.lacks), CHUNK_SIZES[0], even_if_sent=True))
        else:
            self._submit(agent, model or b"")

    def _gather(self, agent: _Agent, chunk: Chunk) -> None:
        wanted = None if agent.assignment is None else agent.assignment.model
        if not agent.lacks or not isinstance(wanted, Content) or wanted.digest != chunk.digest:
            return
        pieces = self._pieces.setdefault(chunk.digest, {})
        pieces[chunk.index] = chunk.data
        agent.lacks -= 1
        if not agent.lacks:
            agent.connection.unsubscribe(self._topics.content(chunk.digest))
            self._submit(agent, b"".join(pieces[index] for index in sorted(pieces)))

    def _submit(self, agent: _Agent, model: bytes) -> None:
        assignment = agent.assignment
        assert assignment is not None
        if self._round is None or self._round.number != assignment.round:
            opened = round_model(model, assignment, self._bundle, self._held)
            self._round = _Round(assignment.round, self._drawn(opened, assignment))
        agent.submitted = assignment.round
        blob = self._round.updates[agent.number % KINDS]
        content = content_of(blob)
        is_small = len(blob) <= MAX_INLINE_BYTES
        self._say(
            agent,
            Submit(
                run=assignment.run,
                round=assignment.round,
                update=blob if is_small else content,
                examples=_EXAMPLES,
                local_steps=self._bundle.task.training.local_steps(_EXAMPLES, self._bundle.task.training.batch_size),
                loss=1.0,
                train_seconds=1.0,
                x_mean=0.5,
                x_largest=1.0,
            ),
        )
        for index in range(0 if is_small else chunk_count(len(blob), CHUNK_SIZES[0])):
            self._say(agent, chunk_of(blob, content.digest, index, CHUNK_SIZES[0]))

    def _drawn(self, model: RoundModel, assignment: Assignment) -> list[bytes]:
        """Updates to the model, encoded as agents encode theirs that owe nothing."""
        codec, table = parse_codec(assignment.known.codec), model.form.task.table
        first = self._bundle.forms.drawn_in(model.form) if codec.asks_what_moved else None
        moved = moved_since(first, model.weights, table)
        updates = []
        for number in range(KINDS):
            drawn, key = Keyed(number, assignment.round), Key(assignment.known.seed, assignment.round, f"a{number}")
            delta = {}
            for spec in table.of(TensorClass.PRUNABLE, TensorClass.DENSE):
                whole = drawn.uniform(spec.size, -0.01, 0.01).astype(np.float32)
                kept = model.mask.get(spec.name)
                delta[spec.name] = whole if kept is None else take_kept(whole, kept.reshape(-1))
            statistics = {spec.name: model.weights[spec.name] for spec in table.of(TensorClass.STATISTICS)}
            sent = codec.compress(delta, codec.init(table), key)
            updates.append(encode_update(sent, statistics, model.mask, table, codec, mask_is_known=True, moved=moved))
        return updates

    def _say(self, agent: _Agent, message: Message) -> None:
        payload = encode(message)
        self._payload += len(payload)
        agent.connection.publish(self._topics.up(agent.name, kind_of(message)), payload)


def main() -> None:
    """COUNT PORT FEDERATION TASK STATE: run a fleet, and say in one line of JSON what it came to."""
    count, port, federation, task, state = sys.argv[1:]
    fleet = Fleet(int(count), int(port), federation, load_bundle(Path(task)), Path(state))
    sys.stdout.buffer.write(msgspec.json.encode(fleet.run()) + b"\n")


if __name__ == "__main__":
    main()
