"""Runs the federation's state machine: messages in, actions out. Network, disk, clock and evaluation are handed in."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_never

from aggregator import round_machine
from aggregator.book import Book, RoundRecord
from aggregator.global_model import GlobalModel, new_model, restored_model
from aggregator.merging import Aggregate
from aggregator.round_state import (
    Action,
    BookCohort,
    Connected,
    Event,
    GiveUp,
    Merge,
    Merged,
    Phase,
    Plan,
    Publish,
    Said,
    Send,
    SendChunk,
    StoreUpdate,
    Ticked,
    UpdateRefused,
    UpdateStored,
)
from fedprune.codecs import Update, Values, check_update, decode_update
from fedprune.errors import ProtocolError, StorageError, TrainingError
from fedprune.model.tensors import Mask, Weights, sparsity
from fedprune.pruning.masks import full_mask
from fedprune.system.disk import Disk
from fedprune.system.usage import peak_memory_mb
from fedprune.task.bundle import Bundle
from fedprune.task.checkpoints import load_checkpoint, save_checkpoint
from fedprune.task.evaluation import Evaluation
from fedprune.wire.link import Delivery, Link
from fedprune.wire.messages import UPLINK, Failed, Submit, decode, encode, kind_of
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import chunk_of, content_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Store:
    """Where a run keeps its state: the book, and disks for checkpoints and for the updates of the open round."""

    book: Book
    checkpoints: Disk
    updates: Disk


class AggregatorRunner:
    """One federation. Construction resumes what the book says, or checkpoints the initial model.

    `evaluate` scores weights on the held-out examples; `report` is told of each finished round.
    """

    def __init__(
        self,
        plan: Plan,
        bundle: Bundle,
        values: Values,
        topics: Topics,
        link: Link,
        store: Store,
        *,
        evaluate: Callable[[Weights], Evaluation],
        report: Callable[[RoundRecord], None],
        clock: Callable[[], float],
    ) -> None:
        self._task = bundle.task
        self._run = plan.run
        self._values = values
        self._update_values = Values(plan.update_values)
        self._cohort = plan.cohort
        self._topics, self._link, self._store = topics, link, store
        self._evaluate, self._report, self._clock = evaluate, report, clock
        self._bundle_blob = bundle.blob
        self._model = self._restore(bundle)
        self._counts: Counter[str] = Counter()
        self._began: float | None = None
        round_ = store.book.next_round()
        self.state = round_machine.resume(
            plan,
            self._model.model,
            round_,
            assigned=store.book.assigned(round_),
            accepted={agent: submit.update.digest for agent, submit in store.book.accepted(round_).items()},
            last_accepted={agent: submit.update.digest for agent, submit in store.book.last_accepted(round_).items()},
            refused=store.book.refused(),
        )

    @property
    def is_done(self) -> bool:
        return self.state.phase is Phase.DONE

    def connect(self) -> None:
        """The link is up: subscribe, then tell the agents."""
        self._link.subscribe(self._topics.all_up)
        self._link.subscribe(self._topics.all_status)
        if self._waiting() is not None:
            _log.info("connected; waiting for %s agents to check in", self._cohort)
        self.handle(Connected())

    def deliver(self, delivery: Delivery) -> None:
        """A message arrived. Whatever is wrong with it, it is counted and ignored.

        What the broker retained is nobody speaking now: old presence, or a check-in that was retained by mistake.
        """
        if delivery.retained:
            return
        self._counts["bytes_up"] += len(delivery.payload)
        if delivery.topic.startswith(self._topics.all_status[:-1]):
            return
        try:
            agent, kind = self._topics.parse_up(delivery.topic)
            if kind not in UPLINK:
                raise ProtocolError(f"kind {kind[:40]!r} is unknown")
            message: Any = decode(UPLINK[kind], delivery.payload)
            if isinstance(message, Failed):
                _log.warning("%s cannot do round %s: %r", agent, message.round + 1, message.why)
            self.handle(Said(agent, message))
        except ProtocolError as error:
            self._counts["ignored"] += 1
            _log.warning("ignored a message on %r: %s", delivery.topic[:200], error)

    def tick(self) -> None:
        self.handle(Ticked())

    def handle(self, event: Event) -> None:
        """Run one transition, its actions, and the events that follow from them."""
        events = [event]
        while events:
            waiting = self._waiting()
            self.state, actions = round_machine.step(self.state, events.pop(0), self._clock())
            if self._began is None and self.state.phase is Phase.TRAINING:
                self._began = self._clock()
            if self._waiting() not in (None, waiting):
                _log.info("waiting for agents: %s of %s are here", self._waiting(), self._cohort)
            for action in actions:
                events.extend(self._perform(action))

    def _perform(self, action: Action) -> list[Event]:
        match action:
            case Send(agent, message):
                self._publish(self._topics.down(agent, kind_of(message)), encode(message))
            case SendChunk(content, index, agent):
                blob = self._bundle_blob if content == self.state.plan.task else self._model.blob
                topic = self._topics.content(content.digest) if agent is None else self._topics.down(agent, "chunk")
                self._publish(topic, encode(chunk_of(blob, content.digest, index)))
            case Publish(manifest):
                self._publish(self._topics.round, encode(manifest), retain=not manifest.done)
                if manifest.done:
                    self._publish(self._topics.round, b"", retain=True)
            case BookCohort(round_, agents):
                self._store.book.assign(round_, agents)
            case StoreUpdate(agent, submit, blob):
                return [self._store_update(agent, submit, blob)]
            case Merge(round_):
                return [self._merge(round_)]
            case GiveUp(failed):
                raise TrainingError(
                    f"round {self.state.round + 1}: {failed} agents failed and none succeeded, for the reasons above; "
                    "mend the task or their data, then start again: the run goes on with this round"
                )
            case _:
                assert_never(action)
        return []

    def _publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._counts["bytes_down"] += self._link.publish(topic, payload, retain=retain)

    def _store_update(self, agent: str, submit: Submit, blob: bytes) -> Event:
        try:
            check_update(self._decode(blob), self._task.table)
        except ProtocolError as error:
            self._counts["refused"] += 1
            self._store.book.refuse(agent, submit.update.digest)
            _log.warning("refused the update of %s: %s", agent, error)
            return UpdateRefused(agent, str(error))
        self._store.updates.write(_update_name(submit.round, agent), blob)
        self._store.book.accept(agent, submit)
        return UpdateStored(agent)

    def _merge(self, round_: int) -> Event:
        submits = self._store.book.accepted(round_)
        aggregate = self._aggregate()
        for agent, submit in submits.items():
            self._fold(aggregate, agent, submit)
        merged = aggregate.result(self._model.checkpoint.exact)
        self._model = new_model(merged.weights, self._task, self._run, round_ + 1, self._values, merged.mask)
        save_checkpoint(self._store.checkpoints, self._model.checkpoint)
        record = self._record(round_, submits)
        self._store.book.finish(record)
        for name in self._store.updates.names():
            self._store.updates.delete(name)
        self._report(record)
        return Merged(self._model.model)

    def _fold(self, aggregate: Aggregate, agent: str, submit: Submit) -> None:
        """Add an accepted update. Raises `StorageError` if the disk no longer holds what it was given."""
        name = _update_name(submit.round, agent)
        blob = self._store.updates.read(name)
        if blob is None or content_of(blob) != submit.update:
            raise StorageError(f"the accepted update {name} is missing or damaged; restore it, or start a new run")
        try:
            aggregate.add(self._decode(blob), submit.examples)
        except ProtocolError as error:
            raise StorageError(
                f"the accepted update {name} cannot be merged ({error}); undo what was changed in the settings"
            ) from error

    def _record(self, round_: int, submits: dict[str, Submit]) -> RoundRecord:
        weights = self._model.checkpoint.weights
        evaluation = self._evaluate(weights)
        examples = sum(submit.examples for submit in submits.values())
        now, counts = self._clock(), self._counts
        began = now if self._began is None else self._began
        self._began, self._counts = now, Counter()
        return RoundRecord(
            round=round_,
            agents=len(submits),
            accuracy=evaluation.accuracy,
            loss=evaluation.loss if math.isfinite(evaluation.loss) else None,
            sparsity=sparsity(weights, self._task.table),
            bytes_up=counts["bytes_up"],
            bytes_down=counts["bytes_down"],
            seconds=now - began,
            train_seconds=max(submit.train_seconds for submit in submits.values()),
            train_loss=sum(submit.loss * submit.examples for submit in submits.values()) / examples,
            ignored=counts["ignored"],
            refused=counts["refused"],
            peak_memory_mb=peak_memory_mb(),
        )

    def _waiting(self) -> int | None:
        """How many agents are here while a round waits for more of them."""
        return len(self.state.present) if self.state.phase is Phase.GATHERING else None

    def _restore(self, bundle: Bundle) -> GlobalModel:
        version = self._store.book.next_round()
        if version == 0:
            initial, everywhere = bundle.initial_weights(), full_mask(self._task.table)
            model = new_model(initial, self._task, self._run, 0, self._values, everywhere)
            save_checkpoint(self._store.checkpoints, model.checkpoint)
            return model
        checkpoint = load_checkpoint(self._store.checkpoints, version)
        try:
            self._task.table.check(checkpoint.weights)
        except ProtocolError as error:
            raise StorageError(f"checkpoint {version} is of another task ({error}); restore the right one") from error
        return restored_model(checkpoint, self._task, self._values)

    def _aggregate(self) -> Aggregate:
        return Aggregate(self._task.table, self._model.checkpoint.weights, self._known_mask())

    def _decode(self, blob: bytes) -> Update:
        return decode_update(blob, self._task.table, self._known_mask(), self._update_values)

    def _known_mask(self) -> Mask | None:
        return self._task.pruning.mask.rules.known_mask(self._model.checkpoint.mask)


def _update_name(round_: int, agent: str) -> str:
    return f"{round_:06d}-{agent}.update"
