"""The rounds' state machine at work: messages in, actions out. What becomes of updates is for its heirs to say."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import assert_never

from aggregator import round_machine
from aggregator.book import Book
from aggregator.listening import Listening
from aggregator.response_times import REMEMBERED, ResponseTimes
from aggregator.round_answers import RETRY_AFTER_S, terms
from aggregator.round_state import (
    Action,
    BookCohort,
    Connected,
    Event,
    GiveUp,
    KeepChunk,
    LedAstray,
    LinkDrained,
    Merge,
    Merged,
    Model,
    Phase,
    Plan,
    Publish,
    RoundGiven,
    RoundState,
    Said,
    Send,
    StoreUpdate,
    Ticked,
    UpdateRefused,
    UpdateStored,
    Warn,
    WarnNobody,
    resume,
)
from aggregator.round_uploads import MAX_UPLOADS_BYTES
from aggregator.silence import nobody
from aggregator.speaker import Speaker
from aggregator.submits_heard import SubmitsHeard
from aggregator.traffic import Traffic, TrafficCount, content_bytes
from fedprune.errors import ProtocolError
from fedprune.identity.device_keys import DeviceKeys
from fedprune.identity.manifest_signer import ManifestSigner
from fedprune.system.disk import Disk
from fedprune.system.log import LimitedLog
from fedprune.wire.authentication import verified_in
from fedprune.wire.link import Delivery, Link
from fedprune.wire.messages import (
    UPLINK,
    CheckIn,
    Failed,
    LeftOut,
    Manifest,
    Message,
    Reason,
    Rejected,
    Submit,
    decode,
    greeting,
)
from fedprune.wire.received_chunks import ReceivedChunks
from fedprune.wire.serving import SendChunk
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import chunk_of
from fedprune.wire.unsaid import run_context
from fedprune.wire.versions import Versions

_log = logging.getLogger(__name__)


MOST_TOGETHER = 64
"""Updates that are made durable with one write and one commit."""

MOST_TOGETHER_BYTES = 16 * 2**20
"""Of these."""

LONGEST_WAIT_S = 0.05
"""For which an update waits for others, while messages come without a pause."""


_ENDS = (Merged, RoundGiven)
"""Events with which a round is over."""


class _Unstored:
    """Updates that wait to be stored together, the first one `since` then."""

    def __init__(self, since: float) -> None:
        self.updates: list[StoreUpdate] = []
        self._since = since
        self._bytes = 0

    def add(self, update: StoreUpdate) -> None:
        self.updates.append(update)
        self._bytes += len(update.blob)

    def is_due(self, now: float) -> bool:
        return (
            len(self.updates) >= MOST_TOGETHER
            or self._bytes >= MOST_TOGETHER_BYTES
            or now - self._since >= LONGEST_WAIT_S
        )


class Exchange(ABC):
    """Rounds with the agents of one federation, as a book says that they stand.

    With `keys`, messages are authenticated, and agents without a key are ignored. With a `signer`, manifests are
    signed. `updates` is the disk for updates, whole and on their way.
    """

    state: RoundState

    def __init__(
        self,
        cohort: int,
        topics: Topics,
        link: Link,
        book: Book,
        updates: Disk,
        clock: Callable[[], float],
        keys: DeviceKeys | None,
        signer: ManifestSigner | None,
        spoken: Versions,
    ) -> None:
        self._cohort, self._spoken = cohort, spoken
        self._topics, self._link, self._book, self._clock = topics, link, book, clock
        self._speaker = Speaker(topics, link, keys, spoken)
        self._listening = Listening(topics, link, keys)
        self._signer = signer
        self._contents: dict[bytes, bytes] = {}
        self._submits_heard = SubmitsHeard()
        self._unstored: _Unstored | None = None
        self._received = ReceivedChunks(updates, MAX_UPLOADS_BYTES)
        self._counts: Counter[str] = Counter()
        self._up = TrafficCount()
        self._ignored_log, self._agents_log, self._warnings = LimitedLog(_log), LimitedLog(_log), LimitedLog(_log)

    def _resume(self, plan: Plan, model: Model, round_: int, *, has_settled: bool = False) -> None:
        """Take up the state in which the book has the rounds."""
        book = self._book
        assigned, cap = book.cohort(round_)
        self.state = resume(
            plan,
            model,
            round_,
            assigned=assigned,
            cap=cap,
            accepted={agent: update.digest for agent, update in book.accepted(round_).items()},
            last_accepted=book.last_accepted(round_),
            refused=book.refused(),
            left_out={agent: LeftOut(round=at, why=why) for agent, (at, why) in book.left_out().items()},
            has_settled=has_settled,
            came=self._received.read(),
            response_times=self._response_times(),
        )

    def _response_times(self) -> ResponseTimes:
        """What the book tells of the last rounds: nobody whose update was accepted took longer than its round."""
        times = ResponseTimes()
        for record in self._book.records()[-REMEMBERED:]:
            for agent in self._book.accepted(record.round):
                times = times.with_response(agent, record.seconds)
        return replace(times, outcomes=0.0, misses=0.0)

    @abstractmethod
    def _store_updates(self, updates: Sequence[StoreUpdate]) -> list[Event]:
        """Check updates, and make those that can be merged durable, all together."""

    @abstractmethod
    def _merge(self, round_: int) -> list[Event]:
        """Make of a round's updates what they make together, durably. `Merged` follows, if the next round is known."""

    @abstractmethod
    def _give_up(self, failed: int) -> None:
        """So many agents failed in the round, and none succeeded. Raises `TrainingError` where people have to mend it
        before anything can go on."""

    @abstractmethod
    def _notice(self) -> None:
        """Look at the state after each transition."""

    @property
    def is_done(self) -> bool:
        return self.state.phase is Phase.DONE

    def connect(self) -> None:
        """The link is up: subscribe, then tell the agents."""
        self._listening.begin()
        self._link.subscribe(self._topics.round)  # to hear that the broker takes the manifest
        if self.state.phase is Phase.GATHERING:
            _log.info("connected; waiting for %s agents to check in", self._cohort)
        self.handle(Connected())

    def deliver(self, delivery: Delivery) -> None:
        """A message arrived. Whatever is wrong with it, it is counted and ignored.

        What the broker retained is nobody speaking now: old presence, or a check-in that was retained by mistake.
        """
        if delivery.retained:
            return
        if delivery.topic == self._topics.round:
            self._speaker.heard_manifest()
            return
        self._listening.count(delivery.topic, self.state, self._clock())
        topic, size = delivery.topic, len(delivery.payload)
        if topic.startswith(self._topics.all_status[:-1]):
            self._up.add(topic, size, Traffic.CONTROL)
            return
        try:
            agent, message = self._read(delivery)
        except ProtocolError as error:
            self._up.add(topic, size, Traffic.CONTROL)
            self._ignore(topic, error)
            return
        self._up.add(topic, size, Traffic.UPDATE, content_bytes(message, size))
        try:
            self.handle(Said(agent, message))
        except ProtocolError as error:
            self._ignore(topic, error)

    def _ignore(self, topic: str, error: ProtocolError) -> None:
        self._counts["ignored"] += 1
        self._ignored_log.log(logging.WARNING, "ignored a message on %r: %s", topic[:200], error)

    def _read(self, delivery: Delivery) -> tuple[str, Message]:
        """Who speaks, and the message. An agent whose message cannot be read is told so, then `ProtocolError` is
        raised, as for what is nobody's message to us."""
        agent, kind = self._topics.parse_up(delivery.topic)
        if kind not in UPLINK:
            raise ProtocolError(f"an aggregator is sent no {kind}")
        key, run = self._speaker.key(agent), self.state.plan.run
        contexts = (run_context(run),) if UPLINK[kind] is Submit else ()
        payload, context = verified_in(key, delivery.topic, delivery.payload, contexts)
        try:
            message = decode(UPLINK[kind], payload, self._spoken)
        except ProtocolError as error:
            answer = Rejected(reason=Reason.UNREADABLE, detail=str(error)[:1000], retry_after=RETRY_AFTER_S)
            self._speaker.tell(agent, answer)
            raise
        if isinstance(message, Submit):
            message = self._submits_heard.whole(agent, message, run if context else message.run)
        if isinstance(message, CheckIn):
            self._speaker.agree(agent, message)
        else:
            self._speaker.agree_on(agent, message.v)
        if isinstance(message, Failed):
            self._agents_log.log(logging.WARNING, "%s cannot do round %s: %r", agent, message.round + 1, message.why)
        return agent, message

    def drained(self) -> None:
        """The broker has all that was published."""
        self.handle(LinkDrained())

    def tick(self) -> None:
        """Look at the clock, after each event: so nothing is done where no alarm is due."""
        now = self._clock()
        self._listening.look(now)
        alarm = round_machine.wake_at(self.state)
        is_time = alarm is not None and alarm <= now
        if is_time or (self._unstored is not None and self._unstored.is_due(now)):
            self.settle()
        if is_time:
            self.handle(Ticked())

    def settle(self) -> None:
        """Store the updates that wait: there is nothing else to do, or it is time."""
        for event in self._store_now():
            self.handle(event)

    def _store_now(self) -> list[Event]:
        unstored, self._unstored = self._unstored, None
        return [] if unstored is None else self._store_updates(unstored.updates)

    def handle(self, event: Event) -> None:
        """Run one transition, its actions, and the events that follow from them."""
        events = [event]
        while events:
            event = events.pop(0)
            waiting = self._tenths_waiting()
            self.state, actions = round_machine.step(self.state, event, self._clock())
            self._notice()
            if self._tenths_waiting() not in (None, waiting):
                _log.info("waiting for agents: %s of %s are here", len(self.state.presence), self._cohort)
            following, actions = deque(actions), ()
            while following:  # what is done is let go of: a round's work for thousands of agents is much of the memory
                events.extend(self._perform(following.popleft()))
            if isinstance(event, _ENDS):
                self._forget_contents()
            if not self._received.is_empty and isinstance(event, (*_ENDS, UpdateStored, UpdateRefused)):
                on_their_way = {upload.submit.content.digest for upload in self.state.uploads.values()}
                self._received.forget_all_but(on_their_way | set(self.state.came))

    def _perform(self, action: Action) -> list[Event]:
        match action:
            case Send(agent, message):
                self._speaker.tell(agent, message)
            case SendChunk(content, index, chunk_bytes, agent):
                chunk = chunk_of(self._contents[content.digest], content.digest, index, chunk_bytes)
                kind = Traffic.TASK if content == self.state.plan.task else Traffic.MODEL
                if agent is None:
                    followers = self.state.serving.followers.get(content.digest) or ()
                    self._speaker.broadcast(chunk, kind, len(followers))
                else:
                    self._speaker.tell(agent, chunk, kind)
            case Publish(manifest):
                self._speaker.announce(self._signed(manifest), self.state.agents)
            case BookCohort(round_, examples, cap):
                self._book.assign(round_, examples, cap)
            case KeepChunk(content, chunk):
                self._received.keep(content, chunk)
            case StoreUpdate():
                self._unstored = self._unstored or _Unstored(self._clock())
                self._unstored.add(action)
                return self._store_now() if self._unstored.is_due(self._clock()) else []
            case Merge(round_):
                return self._merge(round_)
            case Warn(text):
                self._warnings.log(logging.WARNING, "%s", text)
            case LedAstray(agent):
                self._counts["led_astray"] += 1
                self._agents_log.log(logging.WARNING, "what %s held led to another model; it gets the whole one", agent)
            case WarnNobody():
                self._warnings.log(logging.WARNING, "%s", nobody(action, self._topics, self._link.broker))
            case GiveUp(failed):
                self._give_up(failed)
            case _:
                assert_never(action)
        return []

    def _signed(self, manifest: Manifest) -> Manifest:
        if self._signer is None:
            return manifest
        said = greeting(manifest, self._spoken)
        return self._signer.signed(said, terms(self.state.plan), self.state.model.weights_digest)

    def _tenths_waiting(self) -> int | None:
        """The tenths of a cohort that are here while a round waits for more: when they change, the log says so."""
        return 10 * len(self.state.presence) // self._cohort if self.state.phase is Phase.GATHERING else None

    def _forget_contents(self) -> None:
        served = self.state.serving.contents
        self._contents = {digest: blob for digest, blob in self._contents.items() if digest in served}
