"""Runs the federation's state machine: messages in, actions out. Network, disk, clock and evaluation are handed in."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from aggregator import round_machine
from aggregator.acceptance import accepted_update
from aggregator.agents_evaluation import check_evaluated, loss_scale
from aggregator.book import AcceptedUpdate, RoundRecord, best_version
from aggregator.deltas import keep_delta, replays
from aggregator.early_stopping import has_settled
from aggregator.global_model import GlobalModel, new_model, restored_model
from aggregator.local_work import check_local_steps
from aggregator.round_answers import RETRY_AFTER_S
from aggregator.round_merge import FormerRound, MergedRound, Merger, update_name
from aggregator.round_record import round_record
from aggregator.round_remarks import say_left_out, say_settled, suspects, with_hint
from aggregator.round_state import (
    Action,
    BookCohort,
    Connected,
    Event,
    GiveUp,
    LedAstray,
    LinkDrained,
    Merge,
    Merged,
    Model,
    Phase,
    Plan,
    Publish,
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
from aggregator.run_store import RunStore
from aggregator.server_optimizers import ServerOptimizer, check_state
from aggregator.settings import AS_USUAL, Aggregation
from aggregator.silence import nobody
from aggregator.speaker import Speaker
from aggregator.standing_apart import Signals, standing_apart
from aggregator.traffic import Traffic, TrafficCount, content_bytes
from fedprune.codecs import parse_codec, parse_model_codec
from fedprune.errors import ProtocolError, StorageError, TrainingError
from fedprune.identity.device_keys import DeviceKeys
from fedprune.model.tensors import Weights
from fedprune.system.log import LimitedLog
from fedprune.task.bundle import Bundle
from fedprune.task.checkpoints import forget_checkpoints, load_checkpoint, save_checkpoint
from fedprune.task.evaluation import Evaluation, LossScale
from fedprune.task.versions import first_mask
from fedprune.wire.authentication import verified
from fedprune.wire.link import Delivery, Link
from fedprune.wire.messages import (
    MAX_INLINE_BYTES,
    UPLINK,
    Failed,
    LeftOut,
    Message,
    Reason,
    Rejected,
    decode,
)
from fedprune.wire.serving import SendChunk
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import chunk_of, content_of

_log = logging.getLogger(__name__)

_KEPT_UNTIL_JUDGED = 2
"""Checkpoints that stay at least where agents evaluate: they tell a round later whether a merge is to be undone."""


class AggregatorRunner:
    """One federation. Construction resumes what the book says, or checkpoints the initial model.

    `evaluate` scores weights on the gateway's held-out examples, whose losses lie on `scale`; both are None where
    agents evaluate. `report` is told of each finished round. Of the checkpoints the best and the last
    `keep_checkpoints` stay. With a `patience` the run may end early: see `aggregator.early_stopping`.
    With `keys`, messages are authenticated, and agents without a key are ignored.
    """

    def __init__(
        self,
        plan: Plan,
        bundle: Bundle,
        topics: Topics,
        link: Link,
        store: RunStore,
        *,
        evaluate: Callable[[Weights], Evaluation] | None,
        scale: LossScale | None,
        report: Callable[[RoundRecord], None],
        clock: Callable[[], float],
        keep_checkpoints: int,
        keys: DeviceKeys | None = None,
        patience: int | None = None,
        aggregation: Aggregation = AS_USUAL,
    ) -> None:
        self._bundle, self._task = bundle, bundle.task
        self._run = plan.run
        self._values = parse_model_codec(plan.model_codec).values
        self._merger = Merger(
            bundle.task,
            bundle.network,
            plan.run,
            plan.seed,
            parse_model_codec(plan.model_codec),
            parse_codec(plan.codec),
            store.updates,
            evaluate,
            scale,
            aggregation,
        )
        self._scale = scale
        self._cohort = plan.cohort
        self._topics, self._link, self._store = topics, link, store
        self._report, self._clock = report, clock
        self._model = self._restore(bundle, aggregation.optimizer)
        self._contents = {plan.task.digest: bundle.for_devices()}
        self._keep = keep_checkpoints if evaluate is not None else max(keep_checkpoints, _KEPT_UNTIL_JUDGED)
        self._patience = patience
        self._speaker = Speaker(topics, link, keys)
        self._counts: Counter[str] = Counter()
        self._up = TrafficCount()
        self._ignored_log, self._agents_log, self._warnings = LimitedLog(_log), LimitedLog(_log), LimitedLog(_log)
        self._merge_log = LimitedLog(_log)  # of its own: what agents say must not withhold what is said of them
        self._began: float | None = None
        round_ = store.book.next_round()
        assigned, cap = store.book.cohort(round_)
        self.state = resume(
            plan,
            self._offer(),
            round_,
            assigned=assigned,
            cap=cap,
            accepted={agent: update.digest for agent, update in store.book.accepted(round_).items()},
            last_accepted=store.book.last_accepted(round_),
            refused=store.book.refused(),
            left_out={agent: LeftOut(round=at, why=why) for agent, (at, why) in store.book.left_out().items()},
            has_settled=self._has_settled(),
        )

    @property
    def is_done(self) -> bool:
        return self.state.phase is Phase.DONE

    def connect(self) -> None:
        """The link is up: subscribe, then tell the agents."""
        self._link.subscribe(self._topics.all_up)
        self._link.subscribe(self._topics.all_status)
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
        payload = verified(self._speaker.key(agent), delivery.topic, delivery.payload)
        try:
            message = decode(UPLINK[kind], payload)
        except ProtocolError as error:
            answer = Rejected(reason=Reason.UNREADABLE, detail=str(error)[:1000], retry_after=RETRY_AFTER_S)
            self._perform(Send(agent, answer))
            raise
        if isinstance(message, Failed):
            self._agents_log.log(logging.WARNING, "%s cannot do round %s: %r", agent, message.round + 1, message.why)
        return agent, message

    def drained(self) -> None:
        """The broker has all that was published."""
        self.handle(LinkDrained())

    def tick(self) -> None:
        self.handle(Ticked())

    def handle(self, event: Event) -> None:
        """Run one transition, its actions, and the events that follow from them."""
        events = [event]
        while events:
            event = events.pop(0)
            waiting = self._tenths_waiting()
            self.state, actions = round_machine.step(self.state, event, self._clock())
            if self._began is None and self.state.phase is Phase.TRAINING:
                self._began = self._clock()
            if self._tenths_waiting() not in (None, waiting):
                _log.info("waiting for agents: %s of %s are here", len(self.state.presence), self._cohort)
            for action in actions:
                events.extend(self._perform(action))
            if isinstance(event, Merged):
                self._forget_contents()

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
                self._speaker.announce(manifest, self.state.agents)
            case BookCohort(round_, examples, cap):
                self._store.book.assign(round_, examples, cap)
            case StoreUpdate():
                return [self._store_update(action)]
            case Merge(round_):
                return [self._merge(round_)]
            case Warn(text):
                self._warnings.log(logging.WARNING, "%s", text)
            case LedAstray(agent):
                self._counts["led_astray"] += 1
                self._agents_log.log(logging.WARNING, "what %s held led to another model; it gets the whole one", agent)
            case WarnNobody():
                self._warnings.log(logging.WARNING, "%s", nobody(action, self._topics, self._link.broker))
            case GiveUp(failed):
                raise TrainingError(
                    f"round {self.state.round + 1}: {failed} agents failed and none succeeded, for the reasons above; "
                    "mend the task or their data, or go back to an earlier model with `fedprune rollback`, then start "
                    "again: the run goes on with this round"
                )
            case _:
                assert_never(action)
        return []

    def _store_update(self, action: StoreUpdate) -> Event:
        agent, submit = action.agent, action.submit
        try:
            norms = self._merger.check(action.blob, agent, self._model)
            check_evaluated(submit, self._task)
            check_local_steps(submit, self._bundle)
        except ProtocolError as error:
            self._counts["refused"] += 1
            self._store.book.refuse(agent, submit.content.digest)
            self._agents_log.log(logging.WARNING, "refused the update of %s: %s", agent, error)
            return UpdateRefused(agent, str(error))
        if action.weight < submit.examples:
            self._counts["capped"] += 1
            self._agents_log.log(
                logging.WARNING,
                "the update of %s claims %s examples and counts as %s",
                agent,
                submit.examples,
                action.weight,
            )
        self._store.updates.write(update_name(submit.round, agent), action.blob)
        self._store.book.accept(submit.round, agent, accepted_update(submit, action.weight, norms, self._task.training))
        return UpdateStored(agent)

    def _merge(self, round_: int) -> Event:
        book = self._store.book
        updates = book.accepted(round_)
        records = book.records()
        merged = self._merger.merge(self._model, updates, records, self._former_round)
        scale = self._scale or loss_scale(self._task, records)
        apart = standing_apart(
            {agent: Signals(each.loss, each.x_mean, each.x_largest) for agent, each in updates.items()}, scale.constant
        )
        self._model = merged.model
        whole = len(self._model.blob)
        keep_delta(self._store.checkpoints, self._model.checkpoint.version, self._model.delta, whole)
        save_checkpoint(self._store.checkpoints, self._model.checkpoint)
        record = self._record(round_, updates, merged, suspects(self._merge_log, book, round_, apart))
        inputs = max(update.x_largest for update in updates.values())
        record = with_hint(self._merge_log, [*records, record], inputs, scale.constant)
        book.finish(record, merged.left_out, apart)
        for name in self._store.updates.names():
            self._store.updates.delete(name)
        forget_checkpoints(self._store.checkpoints, self._keep, best_version(book.records()))
        say_left_out(self._merge_log, round_, merged)
        self._report(record)
        return Merged(self._offer(), merged.left_out, is_last=self._has_settled())

    def _offer(self) -> Model:
        """The present model as agents are told of it; all that leads to it can be sent from now on."""
        model, whole = self._model.model, self._model.blob
        found = replays(self._store.checkpoints, self._model.checkpoint.version, len(whole))
        contents = {base: content_of(replay) for base, replay in found.items()}
        self._contents[model.content.digest] = whole
        self._contents |= {contents[base].digest: replay for base, replay in found.items()}
        offered = (whole, *found.values())
        small = {content_of(blob).digest: blob for blob in offered if len(blob) <= MAX_INLINE_BYTES}
        return replace(model, replays=contents, small=small)

    def _has_settled(self) -> bool:
        """True, and a word on it, if models no longer become better."""
        steps, records = self._task.training.clock_steps_per_round, self._store.book.records()
        schedules = self._task.pruning.schedules
        if self._patience is None or not has_settled(records, self._patience, schedules, steps):
            return False
        say_settled(records, self._patience)
        return True

    def _former_round(self) -> FormerRound:
        """The round that made the present model."""
        round_ = self._model.checkpoint.version - 1
        return FormerRound(load_checkpoint(self._store.checkpoints, round_), self._store.book.merged(round_))

    def _record(
        self, round_: int, updates: dict[str, AcceptedUpdate], merged: MergedRound, named: list[str]
    ) -> RoundRecord:
        now, counts, up, down = self._clock(), self._counts, self._up, self._speaker.take_count()
        began = now if self._began is None else self._began
        self._began, self._counts, self._up = now, Counter(), TrafficCount()
        return round_record(round_, updates, merged, self._task.table, named, counts, up, down, seconds=now - began)

    def _tenths_waiting(self) -> int | None:
        """The tenths of a cohort that are here while a round waits for more: when they change, the log says so."""
        return 10 * len(self.state.presence) // self._cohort if self.state.phase is Phase.GATHERING else None

    def _forget_contents(self) -> None:
        served = self.state.serving.contents
        self._contents = {digest: blob for digest, blob in self._contents.items() if digest in served}

    def _restore(self, bundle: Bundle, optimizer: ServerOptimizer | None) -> GlobalModel:
        version = self._store.book.next_round()
        if version == 0:
            initial = bundle.initial_weights()
            mask = first_mask(self._task, bundle.network, initial)
            model = new_model(initial, self._task, self._run, 0, self._values, mask)
            save_checkpoint(self._store.checkpoints, model.checkpoint)
            return model
        checkpoint = load_checkpoint(self._store.checkpoints, version)
        if checkpoint.run not in self._store.book.runs():
            raise StorageError(
                f"checkpoint {version} is of run {checkpoint.run}, the book of run {self._run}; restore the right one"
            )
        try:
            self._task.table.check(checkpoint.weights)
            check_state(optimizer, checkpoint.optimizer_state, self._task.table)
        except ProtocolError as error:
            raise StorageError(f"checkpoint {version} is of another task ({error}); restore the right one") from error
        return restored_model(checkpoint, self._task, self._values)
