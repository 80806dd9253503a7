"""Runs the agent's state machine: messages in, actions out. Network, disk and trainer are handed in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import assert_never

import msgspec

from edge_agent import agent_machine, agent_state
from edge_agent.agent_offering import failed
from edge_agent.agent_state import (
    RETRY_S,
    Connected,
    Done,
    Event,
    Follow,
    KeepChunk,
    KeepTask,
    Limits,
    LinkDrained,
    Outcome,
    PermissionChanged,
    Phase,
    Send,
    SendUpdate,
    Settle,
    StopTraining,
    SubmitWhole,
    Train,
    TrainingDone,
    TrainingFailed,
    Unfollow,
    Warn,
    WarnUnanswered,
)
from edge_agent.brief_submits import BriefSubmits
from edge_agent.consent import ConsentMissing, why_too_many_bytes
from edge_agent.consent_events import ConsentRefused
from edge_agent.gateway_proof import GatewayProof, Outdated
from edge_agent.held_model import UnusableBase
from edge_agent.history_events import SendShared, SharedTaken
from edge_agent.local_round import LocalResult, asks_for_statistics
from edge_agent.silence import describe
from edge_agent.status import AgentStatus
from edge_agent.store import AgentStore
from fedprune import __version__
from fedprune.errors import FedpruneError, ProtocolError, StorageError
from fedprune.system.log import LimitedLog
from fedprune.system.service import SERVICE
from fedprune.system.usage import bytes_written
from fedprune.wire.authentication import add_mac, verified, verified_in
from fedprune.wire.link import Delivery, Link
from fedprune.wire.messages import (
    DOWNLINK,
    Assignment,
    CheckIn,
    Chunk,
    Manifest,
    Message,
    Submit,
    decode,
    encode,
    kind_of,
    versions_of,
)
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import chunk_of
from fedprune.wire.unsaid import manifest_context, whole_assignment
from fedprune.wire.versions import SPOKEN, Versions

_log = logging.getLogger(__name__)

_ASK_S = 5 * RETRY_S
"""Between two messages at least by which the agent asks for what proves something, or declines what is too old. Its
first message after it has connected asks too, but nobody hears that if the gateway comes later."""


class AgentRunner:
    """One agent. `train` is called with each `Train` action and answers later through `end_training`, unless
    `stop_training` was called. With a `key`, messages are authenticated; with a `proof`, manifests have to be signed.
    """

    def __init__(
        self,
        name: str,
        check_in: CheckIn,
        limits: Limits,
        topics: Topics,
        link: Link,
        store: AgentStore,
        train: Callable[[Train], None],
        stop_training: Callable[[], None],
        key: bytes | None = None,
        proof: GatewayProof | None = None,
        spoken: Versions = SPOKEN,
    ) -> None:
        received = store.received(limits.max_task_bytes + limits.max_model_bytes)
        self.state = agent_state.start(
            name,
            check_in,
            limits,
            done=store.done,
            durations=store.durations,
            tasks=store.tasks(),
            pending=store.pending,
            held=store.held.version,
            came=received.read(),
        )
        self.ignored = 0
        self._topics = topics
        self._link = link
        self._store = store
        self._received = received
        self._train = train
        self._stop_training = stop_training
        self._key, self._proof = key, proof
        self._spoken, self._agreed = spoken, spoken.oldest
        self._manifest: Manifest | None = None
        """The last that counts."""
        self._runs: bool | None = None  # a federation, as the broker tells; None if it told nothing since connecting
        self._early: Delivery | None = None
        """The last work that no code proved: it may be that of the next manifest."""
        self._submits = BriefSubmits(store.pending)
        self._connected_at = self._asked_at = self._declined_at = float("-inf")
        self._ignored_log = LimitedLog(_log)
        self._warnings = LimitedLog(_log)
        self._waits = LimitedLog(_log)
        self._written_before = bytes_written()
        self._round_bytes: int | None = None
        self._round: tuple[str, int] | None = None

    @property
    def finished_run(self) -> str | None:
        """The run of the gateway's last manifest that counts, if that says that its federation is done."""
        return self._manifest.run if self._manifest is not None and self._manifest.done else None

    def authenticate(self, key: bytes | None, proof: GatewayProof | None) -> None:
        """The device has joined anew: its messages have codes of another key from now on, manifests another proof."""
        self._key, self._proof = key, proof

    def connect(self, now: float) -> None:
        """The link is up: subscribe, then say who we are."""
        for kind in DOWNLINK:
            self._link.subscribe(self._topics.down(self.state.name, kind))
        self._link.subscribe(self._topics.round)
        self._connected_at, self._runs = now, None
        if self.state.phase is Phase.IDLE:
            _log.info("connected; waiting for work")
        self.handle(Connected(), now)

    def deliver(self, delivery: Delivery, now: float) -> None:
        """A message arrived. Whatever is wrong with it, it is counted and ignored."""
        try:
            message = self._decode(delivery)
            if message is not None and self._proof is None:
                self._take(message, now)
            elif message is not None and self._proof is not None:
                self._prove(self._proof, message, now, is_old=delivery.retained)
        except ProtocolError as error:
            self.ignored += 1
            self._ignored_log.log(logging.WARNING, "ignored a message on %r: %s", delivery.topic[:200], error)

    def _prove(self, proof: GatewayProof, message: Message, now: float, *, is_old: bool) -> None:
        """Handle what counts by now. Ask for what is missing, and say what is too old: nobody is to wait for it.
        `is_old`: the gateway had said it before the agent asked last, or connected."""
        try:
            for proven in proof.admit(message, now):
                self._take(proven, now)
        except Outdated as error:
            if isinstance(message, Assignment) and now - self._declined_at >= _ASK_S:
                self._declined_at = now
                self._perform(Send(failed(message, str(error), rests=True)))
            raise
        asked_at = max(self._asked_at, self._connected_at) if is_old else self._asked_at
        if proof.asks and now - asked_at >= _ASK_S:
            self._asked_at = now
            self._link.subscribe(self._topics.round)  # what is retained comes once more
            self._perform(Send(msgspec.structs.replace(self.state.offer, terms=0)))

    def _take(self, message: Message, now: float) -> None:
        """Handle what counts. Work that waited for a manifest says more than that, and so comes first."""
        if isinstance(message, Manifest):
            self._agree(message)
            early, self._early = self._early, None
            if early is not None and message.signature:
                self.deliver(early, now)
        self.handle(message, now)

    def drained(self, now: float) -> None:
        """The broker has all that was published."""
        self.handle(LinkDrained(), now)

    def end_training(self, number: int, result: LocalResult | Exception, now: float) -> None:
        """Training is done: make the update durable, then submit it. One that was stopped leaves nothing, nor does one
        that the device's owner does not consent to.

        Raises `StorageError` if the disk refuses, on this thread or on the training's.
        """
        if not self.state.awaits_training(number):
            return
        if isinstance(result, LocalResult):
            limit = self.state.limits.max_round_bytes
            if why := why_too_many_bytes(self.state.fetched, result.update.most_bytes, limit):
                self.handle(ConsentRefused(number, why, of_task=False), now)
                return
            try:
                durations = self.state.durations_at(now)
                left = result.slots, durations, result.local, result.form
                self._store.remember(result.submit, result.update, *left)
            except Exception as error:
                result = error
        if isinstance(result, LocalResult):
            self.handle(TrainingDone(number, result.submit), now)
        elif isinstance(result, StorageError):
            raise result
        elif isinstance(result, ConsentMissing):
            self.handle(ConsentRefused(number, str(result), of_task=True), now)
        else:
            wants_whole = isinstance(result, UnusableBase)
            self.handle(TrainingFailed(number, _reason(result), self._store.tasks(), wants_whole), now)

    def give_up(self, why: str, now: float) -> None:
        """The process is about to end: nobody need wait for what it trains."""
        if self.state.phase is Phase.TRAINING:
            self.handle(TrainingFailed(self.state.training, why, self.state.tasks), now)

    def permit(self, changed: PermissionChanged, now: float) -> None:
        """The device permits training, or does not. What trains was held before this."""
        self._waits.log(logging.INFO, "%s", f"waits: {changed.why_not}" if changed.why_not else "may train again")
        self.handle(changed, now)

    def say_again(self) -> None:
        """Say once more what the aggregator answers in this phase: whoever examines the agent waits for that.

        An idle agent shows no ticket, so that it is answered at once; one that trains shows it, or its round would be
        given to another.
        """
        state = self.state
        if state.pending is not None:
            self._perform(Send(state.pending))
        else:
            is_idle = state.phase is Phase.IDLE
            self._perform(Send(msgspec.structs.replace(state.offer, ticket=b"") if is_idle else state.offer))

    def status(self, now: float) -> AgentStatus:
        """What is told to whoever asks on this machine."""
        state = self.state
        work = state.assignment or state.pending
        return AgentStatus(
            version=__version__,
            phase=state.phase.name.lower(),
            round=None if work is None else work.round + 1,
            is_connected=state.connected,
            heard_s=None if state.heard_at < 0 else now - state.heard_at,
            unanswered=state.unanswered,
            runs=self._runs,
            waits_for=state.waits_for
            or (state.refusal.why if state.refusal and state.is_refusing else "")
            or ("" if self._proof is None else self._proof.waits_for),
            round_bytes_written=self._round_bytes,
        )

    def handle(self, event: Event, now: float) -> None:
        """Run one transition and its actions."""
        before = self.state.phase
        self.state, actions = agent_machine.step(self.state, event, now)
        written = self._note_round()
        if self.state.phase is not before:
            _log.info("%s%s", self._describe(), written)
            SERVICE.status(self._describe())
        if not self._received.is_empty:  # before what is whole is kept: the disk may not have room for both
            self._received.forget_all_but(self.state.receiving.keys() | self.state.came.keys())
        for action in actions:
            if not isinstance(action, SendShared):
                self._perform(action)
            elif (submit := self._store.send_shared()) is not None:
                _log.info("the gateway remembers other updates of this device: the last one is sent without that")
                self.handle(SharedTaken(submit), now)

    def _note_round(self) -> str:
        """What the round that has just ended wrote to the disk, which wears SD cards, in words; empty if none has."""
        work = self.state.assignment or self.state.pending
        current = None if work is None else (work.run, work.round)
        if current == self._round:
            return ""
        ended, before, written = self._round, self._written_before, bytes_written()
        self._round, self._written_before = current, written
        if ended is None or before is None or written is None:
            return ""
        self._round_bytes = written - before
        return f"; round {ended[1] + 1} wrote {self._round_bytes / 1000:.0f} kB to the disk"

    def _perform(self, action: Done) -> None:
        match action:
            case Send(message):
                self._say(message)
            case SubmitWhole():
                assert self.state.pending is not None
                whole = msgspec.structs.replace(self.state.pending, update=self._store.update())
                self._say(whole)
            case SendUpdate(indexes, chunk_bytes):
                self._send_update(indexes, chunk_bytes)
            case Follow(digest):
                self._link.subscribe(self._topics.content(digest))
            case Unfollow(digest):
                self._link.unsubscribe(self._topics.content(digest))
            case KeepChunk(content, chunk):
                self._received.keep(content, chunk)
            case KeepTask(digest, blob):
                self._store.keep_task(digest, blob)
            case Train():
                self._train(action)
            case StopTraining():
                self._stop_training()
            case Settle(outcome):
                self._store.settle(outcome)
                if outcome is Outcome.ACCEPTED:
                    self._submits.accept()
            case Warn(text):
                self._warnings.log(logging.WARNING, "%s", text)
            case WarnUnanswered():
                text = describe(action, self._topics, self.state.name, self._link.broker, runs=self._runs)
                self._warnings.log(logging.INFO if self._runs is False else logging.WARNING, "%s", text)
            case _:
                assert_never(action)

    def _send_update(self, indexes: tuple[int, ...], chunk_bytes: int) -> None:
        submit, blob = self.state.pending, self._store.update()
        assert submit is not None
        for index in indexes:
            chunk = chunk_of(blob, submit.content.digest, index, chunk_bytes)
            self._say(chunk)

    def _say(self, message: Message) -> None:
        topic, context = self._topics.up(self.state.name, kind_of(message)), b""
        if isinstance(message, Submit):
            assert self.state.pending is not None
            digest, coded = self.state.pending.content.digest, self._key is not None
            message, context = self._submits.brief(message, digest, self._manifest, coded=coded)
        self._link.publish(topic, add_mac(self._key, topic, encode(message, self._agreed, self._spoken), context))

    def _decode(self, delivery: Delivery) -> Message | None:
        topic, payload = delivery.topic, delivery.payload
        if topic == self._topics.round:
            self._runs = bool(payload)
            return decode(Manifest, payload, self._spoken) if payload else None
        if delivery.retained:
            raise ProtocolError("it is retained; only the round's manifest may be")
        kind = self._topics.parse_down(topic, self.state.name)
        if DOWNLINK.get(kind) is Assignment:
            return self._decode_work(delivery)
        if kind in DOWNLINK:
            return decode(DOWNLINK[kind], verified(self._key, topic, payload), self._spoken)
        chunk = decode(Chunk, payload, self._spoken)
        if topic != self._topics.content(chunk.digest):
            raise ProtocolError("a topic we did not ask for")
        return chunk

    def _decode_work(self, delivery: Delivery) -> Assignment:
        """The work, with what the manifest said. One of another manifest is kept until the next."""
        manifest = self._manifest if self._manifest is not None and self._manifest.signature else None
        contexts = () if manifest is None else (manifest_context(manifest),)
        try:
            payload, context = verified_in(self._key, delivery.topic, delivery.payload, contexts)
        except ProtocolError:
            self._early = delivery
            raise
        return whole_assignment(decode(Assignment, payload, self._spoken), manifest if context else None)

    def _agree(self, manifest: Manifest) -> None:
        """Speak the newest version with the aggregator, from its manifest on, that it speaks too."""
        common = self._spoken.common(versions_of(manifest))
        assert common is not None, "it was decoded"
        self._manifest, self._agreed = manifest, common

    def _describe(self) -> str:
        state = self.state
        if state.assignment is not None:
            if asks_for_statistics(state.assignment):
                return "giving the statistics of these examples"
            return f"round {state.assignment.round + 1}: {state.phase.name.lower()}"
        if state.pending is not None:
            return f"round {state.pending.round + 1}: {state.phase.name.lower()} {state.pending.content.size} bytes"
        return "waiting for its owner's consent" if state.is_refusing else "waiting for work"


def _reason(error: Exception) -> str:
    """Say why training failed, here and to the gateway. What nobody foresaw keeps its traceback."""
    if isinstance(error, FedpruneError):
        _log.error("cannot train: %s", error)
        return str(error)
    _log.error("cannot train", exc_info=error)
    return f"{type(error).__name__}: {error}"
