"""Runs the federation's state machine: messages in, actions out. Network, disk, clock and evaluation are handed in."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aggregator.acceptance import accepted_update
from aggregator.agents_evaluation import check_evaluated, loss_scale
from aggregator.book import MOST_NAMES, AcceptedUpdate, Book, RoundRecord, best_version
from aggregator.deltas import keep_delta, replays
from aggregator.early_stopping import has_settled
from aggregator.exchange import Exchange
from aggregator.folding import Taken
from aggregator.global_model import GlobalModel, new_model, restored_model
from aggregator.local_work import check_local_steps
from aggregator.round_merge import FormerRound, MergedRound, Merger, nowhere
from aggregator.round_remarks import say_left_out, say_settled, suspects, with_hint
from aggregator.round_state import (
    Event,
    HistoryDiffers,
    Merged,
    Model,
    Phase,
    Plan,
    StoreUpdate,
    UpdateRefused,
    UpdateStored,
)
from aggregator.segments import write_segment
from aggregator.server_optimizers import ServerOptimizer, check_state
from aggregator.settings import AS_USUAL, Aggregation
from aggregator.standing_apart import Signals, standing_apart
from aggregator.traffic import Traffic, TrafficCount
from aggregator.workers import Checked, Verdict, WorkerEnded, Workers
from fedprune.codecs import OtherHistory, parse_codec, parse_model_codec
from fedprune.errors import ProtocolError, StorageError
from fedprune.identity.device_keys import DeviceKeys
from fedprune.identity.manifest_signer import ManifestSigner
from fedprune.system.disk import Directory, Disk
from fedprune.system.log import LimitedLog
from fedprune.system.usage import bytes_written, peak_memory_mb
from fedprune.task.bundle import Bundle
from fedprune.task.checkpoints import forget_checkpoints, load_sparse_checkpoint, save_checkpoint
from fedprune.task.evaluation import Evaluate, LossScale
from fedprune.task.run_directory import BOOK, CHECKPOINTS, UPDATES
from fedprune.task.succession import first_version
from fedprune.wire.link import Link
from fedprune.wire.messages import MAX_INLINE_BYTES
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import content_of
from fedprune.wire.versions import SPOKEN, Versions

_log = logging.getLogger(__name__)

_KEPT_UNTIL_JUDGED = 2
"""Checkpoints that stay at least where agents evaluate: they tell a round later whether a merge is to be undone."""


@dataclass(frozen=True)
class RunStore:
    """The storage of a run: the book, and disks for checkpoints and for the updates of the open round."""

    book: Book
    checkpoints: Disk
    updates: Disk

    @classmethod
    def open(cls, state: Path) -> RunStore:
        """The store in a run's directory, which the caller owns.

        Raises `StorageError` if it cannot be read, or holds checkpoints of which the book knows nothing: a book that
        is gone is no new run, and what it said was accepted must not be overwritten.
        """
        store = cls(Book.open(state / BOOK), Directory(state / CHECKPOINTS), Directory(state / UPDATES))
        if store.book.is_new and (store.checkpoints.names() or store.updates.names()):
            store.book.close()
            raise StorageError(
                f"{state} holds a run's checkpoints, but {BOOK} knows of none: restore it and the -wal file beside it, "
                "or name an empty state directory; nothing was changed"
            )
        return store

    def forget_updates(self) -> None:
        """Delete the updates of the open round."""
        for name in self.updates.names():
            self.updates.delete(name)

    def close(self) -> None:
        self.book.close()


class AggregatorRunner(Exchange):
    """One federation. Construction resumes what the book says, or checkpoints the initial model.

    `evaluate` scores weights on the gateway's held-out examples, whose losses lie on `scale`; both are None where
    agents evaluate. `report` is told of each finished round. Of the checkpoints the best and the last
    `keep_checkpoints` stay. With `workers` updates are checked and folded beside this process, which is told of it by
    events for `hear_worker`. With a `patience` the run may end early: see `aggregator.early_stopping`.
    """

    def __init__(
        self,
        plan: Plan,
        bundle: Bundle,
        topics: Topics,
        link: Link,
        store: RunStore,
        *,
        evaluate: Evaluate | None,
        scale: LossScale | None,
        report: Callable[[RoundRecord], None],
        clock: Callable[[], float],
        keep_checkpoints: int,
        keys: DeviceKeys | None = None,
        signer: ManifestSigner | None = None,
        patience: int | None = None,
        aggregation: Aggregation = AS_USUAL,
        spoken: Versions = SPOKEN,
        workers: Workers | None = None,
    ) -> None:
        super().__init__(plan.cohort, topics, link, store.book, store.updates, clock, keys, signer, spoken)
        self._bundle, self._task = bundle, bundle.task
        self._run, self._most_inline = plan.run, min(MAX_INLINE_BYTES, plan.chunk_bytes)
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
            nowhere if workers is None else workers.folded,
            store.book.remembered,
        )
        self._workers = workers
        self._scale = scale
        self._store, self._report = store, report
        self._model = self._restore(bundle, aggregation.optimizer)
        self._contents = {plan.task.digest: bundle.for_devices()}
        self._keep = keep_checkpoints if evaluate is not None else max(keep_checkpoints, _KEPT_UNTIL_JUDGED)
        self._patience = patience
        self._merge_log = LimitedLog(_log)  # of its own: what agents say must not withhold what is said of them
        self._began: float | None = None
        self._written = bytes_written()
        self._resume(plan, self._offer(), store.book.next_round(), has_settled=self._has_settled())

    def _notice(self) -> None:
        if self._began is None and self.state.phase is Phase.TRAINING:
            self._began = self._clock()

    def _hopeless(self, failed: int) -> str:
        return (
            f"round {self.state.round + 1}: {failed} agents failed and none succeeded, for the reasons above; mend the "
            "task or their data, or go back to an earlier model with `fedprune rollback`, then start again: the run "
            "goes on with this round"
        )

    def _store_updates(self, updates: Sequence[StoreUpdate]) -> list[Event]:
        if self._workers is None:
            return self._note_verdicts([(action, self._verdict(action)) for action in updates])
        said = [(action, self._says_nonsense(action)) for action in updates]
        checked = [(action, self._merger.remembered(action.agent, self._model)) for action, why in said if why is None]
        self._workers.check(checked, self._model.checkpoint.version)
        return self._note_verdicts([(action, why) for action, why in said if why is not None])

    def hear_worker(self, event: Checked | WorkerEnded) -> None:
        """Go on with what a worker has checked; or with another worker."""
        assert self._workers is not None
        if isinstance(event, WorkerEnded):
            self._workers.replace(event)
            return
        for following in self._note_verdicts(self._workers.take_verdicts(event)):
            self.handle(following)

    def _verdict(self, action: StoreUpdate) -> Verdict:
        try:
            return self._says_nonsense(action) or self._merger.take(
                action.blob, action.agent, self._model, action.weight
            )
        except OtherHistory as error:
            return error
        except ProtocolError as error:
            return str(error)

    def _says_nonsense(self, action: StoreUpdate) -> str | None:
        """Why what an agent says beside its update cannot be; None if it can."""
        try:
            check_evaluated(action.submit, self._task)
            check_local_steps(action.submit, self._bundle)
        except ProtocolError as error:
            return str(error)
        return None

    def _note_verdicts(self, judged: Sequence[tuple[StoreUpdate, Verdict]]) -> list[Event]:
        """Make what can be merged durable, all together, and remember what cannot be."""
        taken = {action.agent: (action, found) for action, found in judged if isinstance(found, Taken)}
        refused = {action.agent: (action, found) for action, found in judged if isinstance(found, str)}
        for agent, (_, why) in refused.items():
            self._counts["refused"] += 1
            self._agents_log.log(logging.WARNING, "refused the update of %s: %s", agent, why)
        if refused:
            self._store.book.refuse({agent: action.submit.content.digest for agent, (action, _) in refused.items()})
        for action, _ in taken.values():
            self._note_cap(action)
        if taken:
            self._keep_updates(taken)
        return [self._event_of(action.agent, found) for action, found in judged]

    def _event_of(self, agent: str, found: Verdict) -> Event:
        match found:
            case Taken():
                return UpdateStored(agent)
            case OtherHistory():
                self._agents_log.log(logging.INFO, "%s is to send its update once more: %s", agent, found)
                return HistoryDiffers(agent)
            case str():
                return UpdateRefused(agent, found)

    def _note_cap(self, action: StoreUpdate) -> None:
        if action.weight < action.submit.examples:
            self._counts["capped"] += 1
            self._agents_log.log(
                logging.WARNING,
                "the update of %s claims %s examples and counts as %s",
                action.agent,
                action.submit.examples,
                action.weight,
            )

    def _keep_updates(self, taken: Mapping[str, tuple[StoreUpdate, Taken]]) -> None:
        round_ = self.state.round
        places = write_segment(
            self._store.updates, round_, {agent: action.blob for agent, (action, _) in taken.items()}
        )
        self._store.book.accept(
            round_,
            {
                agent: accepted_update(action.submit, action.weight, found.norms, self._task.training, places[agent])
                for agent, (action, found) in taken.items()
            },
            {agent: found.signs for agent, (_, found) in taken.items() if found.signs},
        )

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
        self._store.forget_updates()
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
        small = {content_of(blob).digest: blob for blob in offered if len(blob) <= self._most_inline}
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
        return FormerRound(load_sparse_checkpoint(self._store.checkpoints, round_), self._store.book.merged(round_))

    def _record(
        self, round_: int, updates: dict[str, AcceptedUpdate], merged: MergedRound, named: list[str]
    ) -> RoundRecord:
        weights, evaluation = self._model.checkpoint.weights, merged.evaluation
        taken = [update for agent, update in updates.items() if agent not in merged.left_out] or [*updates.values()]
        weight = sum(update.weight for update in taken)
        now, counts, up, down = self._clock(), self._counts, self._up, self._speaker.take_count()
        began = now if self._began is None else self._began
        before, written = self._written or 0, bytes_written()
        self._written = written
        self._began, self._counts, self._up = now, Counter(), TrafficCount()
        up.part(Traffic.UPDATE, Traffic.VOTES, merged.vote_bytes)
        return RoundRecord(
            round=round_,
            agents=len(updates),
            evaluated_version=merged.evaluated_version,
            loss=evaluation.loss if math.isfinite(evaluation.loss) else None,
            metrics=dict(evaluation.metrics),
            spreads=merged.spreads,
            sparsity=self._merger.form_of(self._model).sparsity(weights),
            bytes_up=sum(up.by_kind.values()),
            bytes_down=sum(down.by_kind.values()),
            seconds=now - began,
            train_seconds=max(update.train_seconds for update in updates.values()),
            train_loss=sum(update.loss * update.weight for update in taken) / weight,
            ignored=counts["ignored"],
            refused=counts["refused"],
            capped=counts["capped"],
            peak_memory_mb=peak_memory_mb(),
            kept=merged.kept,
            left_out=len(merged.left_out),
            outliers=tuple(merged.named[:MOST_NAMES]),
            suspects=tuple(named[:MOST_NAMES]),
            delta_norm=merged.norms.delta,
            statistics_norm=merged.norms.statistics,
            bytes_up_by_kind=up.by_kind,
            bytes_down_by_kind=down.by_kind,
            mqtt_up=up.mqtt_bytes(down),
            mqtt_down=down.mqtt_bytes(up),
            messages_up=up.messages,
            messages_down=down.messages,
            led_astray=counts["led_astray"],
            bytes_written=None if written is None else written - before,
        )

    def _restore(self, bundle: Bundle, optimizer: ServerOptimizer | None) -> GlobalModel:
        version = self._store.book.next_round()
        if version == 0:
            initial = bundle.initial_weights()
            form, mask = first_version(self._merger.forms, initial)
            model = new_model(initial, self._task, self._run, 0, self._values, mask, form=form)
            save_checkpoint(self._store.checkpoints, model.checkpoint)
            return model
        checkpoint = load_sparse_checkpoint(self._store.checkpoints, version)
        if checkpoint.run not in self._store.book.runs():
            raise StorageError(
                f"checkpoint {version} is of run {checkpoint.run}, the book of run {self._run}; restore the right one"
            )
        try:
            form = self._merger.forms.of(checkpoint.units)
            form.task.table.check(checkpoint.weights)
            check_state(optimizer, checkpoint.optimizer_state, form.task.table)
        except ProtocolError as error:
            raise StorageError(f"checkpoint {version} is of another task ({error}); restore the right one") from error
        return restored_model(checkpoint, self._task, self._values, form)
