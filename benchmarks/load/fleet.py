"""A fleet of agents in one process. Each has its own connection, says what a real one says, and sends an update that
was really encoded. They train nothing: `KINDS` updates of a round are drawn, and shared out over the agents
(`benchmarks.load.updates`). Whose connection ends comes back as a real agent does, with the same jitter, and says again
what was not answered.
"""

from __future__ import annotations

import heapq
import selectors
import signal
import sys
import time
from bisect import bisect_left
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from benchmarks.load.mqtt import Connection
from benchmarks.load.updates import KINDS, DrawnUpdates
from edge_agent.held_model import HeldModel
from edge_agent.round_model import round_model
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
    Need,
    Rejected,
    Submit,
    Terms,
    decode,
    encode,
    kind_of,
)
from fedprune.wire.reconnecting import Pauses
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import CHUNK_SIZES, chunk_count, chunk_of, content_of, need_of, needed

_EXAMPLES = 100
_AGAIN_S = 30.0
"""After which an agent that has said nothing offers itself again, or says again what was not answered. Real ones that
wait do so after 15 to 45 s."""
_LOOK_S = 5.0
"""Between looks at who has said nothing."""
HALF = "half"
"""The line that the fleet says once half of its updates of `HALVED_ROUND` are sent."""

HALVED_ROUND = 2
_OPENED_AT_ONCE = 200
"""Connections that are opened before what came over the others is read."""


class _Ended(Exception):
    """Somebody ends the fleet."""


class FleetReport(msgspec.Struct, frozen=True):
    """Bytes over all sockets of the fleet, both ways, and of what was published. Of agents whose connection ended: how
    often, the seconds from the first end until all were back, and the most that came back within a second."""

    socket_bytes: int
    payload_bytes: int
    lost: int
    back_seconds: float
    most_in_a_second: int


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
    unanswered: Submit | None = None
    said_at: float = 0.0
    """When it last said something."""
    opened_at: float = 0.0
    is_away: bool = False
    """Its connection ended, and no other has been let in yet."""
    pauses: Pauses = field(default_factory=lambda: Pauses(is_one_of_many=True))


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
        self._drawn = DrawnUpdates(bundle, min(count, KINDS))
        self._selector = selectors.DefaultSelector()
        self._agents: list[_Agent] = []
        self._round: _Round | None = None
        self._pieces: dict[bytes, dict[int, bytes]] = {}
        self._payload = self._lost_bytes = 0
        self._is_done = self._is_running = False
        self._port = port
        self._again: list[tuple[float, int]] = []
        self._lost_at: list[float] = []
        self._back_at: list[float] = []
        self._halved = 0
        for number in range(count):
            self._open(number, port)
            if number % _OPENED_AT_ONCE == 0:
                self._turn(0.0)

    def run(self) -> FleetReport:
        """Serve until the federation is done, or `end` is called: on a busy machine the last word may be lost."""
        with suppress(_Ended):
            self._is_running = True
            self._serve_agents()
        self._is_running = False
        connections = [agent.connection for agent in self._agents]
        sockets = self._lost_bytes + sum(each.bytes_in + each.bytes_out for each in connections)
        back = self._back_at[-1] - self._lost_at[0] if self._back_at else 0.0
        return FleetReport(sockets, self._payload, len(self._lost_at), back, _most_within(self._back_at, 1.0))

    def end(self, *_: object) -> None:
        """Interrupt `run`, as a signal does."""
        if self._is_running:
            raise _Ended

    def _serve_agents(self) -> None:
        again_at = time.monotonic() + _LOOK_S
        while not self._is_done:
            next_at = min(again_at, self._again[0][0]) if self._again else again_at
            self._turn(max(0.0, next_at - time.monotonic()))
            while self._again and self._again[0][0] <= time.monotonic():
                self._connect_again(self._agents[heapq.heappop(self._again)[1]])
            if time.monotonic() >= again_at:
                self._offer_again()
                again_at = time.monotonic() + _LOOK_S

    def _open(self, number: int, port: int) -> None:
        name = f"a{number}"
        agent = _Agent(number, name, Connection(port, self._topics.agent_client(name)))
        self._agents.append(agent)
        self._greet(agent)

    def _greet(self, agent: _Agent) -> None:
        agent.opened_at = time.monotonic()
        agent.connection.subscribe(self._topics.all_down_to(agent.name))
        agent.connection.subscribe(self._topics.round)
        agent.connection.write()
        self._selector.register(agent.connection.socket, selectors.EVENT_READ, agent)

    def _lose(self, agent: _Agent) -> None:
        """Its connection ended: it will be opened again."""
        connection = agent.connection
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._lost_bytes += connection.bytes_in + connection.bytes_out
        self._lost_at.append(time.monotonic())
        agent.is_away = True
        agent.pauses.connection_ended(time.monotonic() - agent.opened_at)
        self._retry(agent)

    def _retry(self, agent: _Agent) -> None:
        heapq.heappush(self._again, (time.monotonic() + agent.pauses.next(), agent.number))

    def _connect_again(self, agent: _Agent) -> None:
        try:
            agent.connection = Connection(self._port, self._topics.agent_client(agent.name))
        except OSError:
            self._retry(agent)
        else:
            self._greet(agent)

    def _come_back(self, agent: _Agent) -> None:
        """The broker has let it in again: it says who it is, what is not answered, and what it lacks."""
        agent.is_away = False
        self._back_at.append(time.monotonic())
        self._check_in(agent)
        if agent.unanswered is not None:
            self._say(agent, agent.unanswered)
        wanted = None if agent.assignment is None else agent.assignment.model
        if agent.lacks and isinstance(wanted, Content):
            agent.connection.subscribe(self._topics.content(wanted.digest))
            self._ask(agent, wanted)

    def _turn(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout):
            agent: _Agent = key.data
            was_up = agent.connection.is_up
            try:
                for topic, payload in agent.connection.read():
                    self._payload += len(payload)
                    self._hear(agent, topic, payload)
                if agent.is_away and agent.connection.is_up and not was_up:
                    self._come_back(agent)
                agent.connection.write()
            except OSError:
                self._lose(agent)
                continue
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
            case "accepted":
                agent.unanswered = None
            case "need":
                self._serve(agent, decode(Need, payload))

    def _hear_manifest(self, agent: _Agent, payload: bytes) -> None:
        if not payload:
            return
        manifest = decode(Manifest, payload)
        self._is_done = self._is_done or manifest.done
        if agent.incarnation != manifest.incarnation:  # the gateway heard nothing that was said before
            agent.incarnation = manifest.incarnation
            self._check_in(agent)

    def _offer_again(self) -> None:
        """The gateway gives so many tickets in a second, and forgets who was not heard for long."""
        for agent in self._agents:
            if not agent.connection.is_up or time.monotonic() - agent.said_at < _AGAIN_S:
                continue
            if agent.unanswered is None:
                self._check_in(agent)
            else:
                self._say(agent, agent.unanswered)
            with suppress(OSError):  # whose connection has ended is found when it is read
                agent.connection.write()

    def _check_in(self, agent: _Agent) -> None:
        self._say(agent, CheckIn(examples=_EXAMPLES, trainer="litert", ticket=agent.ticket))

    def _show_ticket(self, agent: _Agent, rejected: Rejected) -> None:
        if rejected.ticket and rejected.ticket != agent.ticket:
            agent.ticket = rejected.ticket
            self._check_in(agent)

    def _take(self, agent: _Agent, assignment: Assignment) -> None:
        agent.terms = assignment.terms or agent.terms
        if assignment.round <= agent.submitted or agent.terms is None:
            return
        agent.assignment, agent.lacks = msgspec.structs.replace(assignment, terms=agent.terms), 0
        agent.unanswered = None
        model = assignment.model
        if isinstance(model, Content):  # as a real agent, each fetches it
            agent.connection.subscribe(self._topics.content(model.digest))
            self._ask(agent, model)
        else:
            self._submit(agent, model or b"")

    def _ask(self, agent: _Agent, model: Content) -> None:
        agent.lacks = chunk_count(model.size, CHUNK_SIZES[0])
        self._say(agent, need_of(model, range(agent.lacks), CHUNK_SIZES[0], even_if_sent=True))

    def _serve(self, agent: _Agent, need: Need) -> None:
        """Send what the gateway lacks of the last update."""
        if self._round is None or agent.submitted != self._round.number:
            return
        blob = self._round.updates[agent.number % KINDS]
        content = content_of(blob)
        if need.digest == content.digest:
            for index in needed(need, content):
                self._say(agent, chunk_of(blob, content.digest, index, need.chunk_bytes))

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
            self._round = _Round(assignment.round, self._drawn.of_round(opened, assignment))
        agent.submitted = assignment.round
        blob = self._round.updates[agent.number % KINDS]
        content = content_of(blob)
        is_small = len(blob) <= MAX_INLINE_BYTES
        agent.unanswered = Submit(
            run=assignment.run,
            round=assignment.round,
            update=content,
            examples=_EXAMPLES,
            local_steps=self._bundle.task.training.local_steps(_EXAMPLES, self._bundle.task.training.batch_size),
            loss=1.0,
            train_hundredths=100,
            x_mean=0.5,
            x_largest=1.0,
        )
        self._say(agent, msgspec.structs.replace(agent.unanswered, update=blob) if is_small else agent.unanswered)
        self._halved += assignment.round == HALVED_ROUND
        if assignment.round == HALVED_ROUND and self._halved == (len(self._agents) + 1) // 2:
            sys.stdout.write(HALF + "\n")
            sys.stdout.flush()
        for index in range(0 if is_small else chunk_count(len(blob), CHUNK_SIZES[0])):
            self._say(agent, chunk_of(blob, content.digest, index, CHUNK_SIZES[0]))

    def _say(self, agent: _Agent, message: Message) -> None:
        payload = encode(message)
        agent.said_at = time.monotonic()
        self._payload += len(payload)
        agent.connection.publish(self._topics.up(agent.name, kind_of(message)), payload)


def _most_within(times: list[float], seconds: float) -> int:
    """The most of some rising times that lie within so many seconds."""
    return max((bisect_left(times, at + seconds) - index for index, at in enumerate(times)), default=0)


def main() -> None:
    """COUNT PORT FEDERATION TASK STATE: run a fleet, and say in one line of JSON what it came to."""
    count, port, federation, task, state = sys.argv[1:]
    fleet = Fleet(int(count), int(port), federation, load_bundle(Path(task)), Path(state))
    signal.signal(signal.SIGTERM, fleet.end)
    sys.stdout.buffer.write(msgspec.json.encode(fleet.run()) + b"\n")


if __name__ == "__main__":
    main()
