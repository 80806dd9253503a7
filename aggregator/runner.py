"""Runs the federation's state machine: messages in, actions out. Network, disk, clock and evaluation are handed in."""

from __future__ import annotations

import logging
from collections.abc import Callable

from aggregator.agents_evaluation import loss_scale
from aggregator.best_model import best_version
from aggregator.book import RoundRecord
from aggregator.deltas import keep_delta
from aggregator.early_stopping import has_settled
from aggregator.global_model import GlobalModel, new_model, restored_model
from aggregator.round_merge import FormerRound
from aggregator.round_remarks import say_left_out, say_settled, suspects, with_hint
from aggregator.round_state import Event, Merged, Plan
from aggregator.run_store import RunStore
from aggregator.server_optimizers import ServerOptimizer, check_state
from aggregator.settings import AS_USUAL, Aggregation
from aggregator.standing_apart import Signals, standing_apart
from aggregator.update_exchange import UpdateExchange
from aggregator.workers import Workers
from fedprune.codecs import parse_model_codec
from fedprune.errors import ProtocolError, StorageError, TrainingError
from fedprune.identity.device_keys import DeviceKeys
from fedprune.identity.manifest_signer import ManifestSigner
from fedprune.task.bundle import Bundle
from fedprune.task.checkpoints import forget_checkpoints, load_sparse_checkpoint, save_checkpoint
from fedprune.task.evaluation import Evaluate, LossScale
from fedprune.task.succession import first_version
from fedprune.wire.link import Link
from fedprune.wire.topics import Topics
from fedprune.wire.versions import SPOKEN, Versions

_log = logging.getLogger(__name__)

_KEPT_UNTIL_JUDGED = 2
"""Checkpoints that stay at least where agents evaluate: they tell a round later whether a merge is to be undone."""


class AggregatorRunner(UpdateExchange):
    """One federation. Construction resumes what the book says, or checkpoints the initial model.

    `evaluate` scores weights on the gateway's held-out examples, whose losses lie on `scale`; both are None where
    agents evaluate. `report` is told of each finished round. Of the checkpoints the best and the last
    `keep_checkpoints` stay. With a `patience` the run may end early: see `aggregator.early_stopping`.
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
        super().__init__(
            plan, bundle, topics, link, store, clock, keys, signer, spoken, workers, evaluate, scale, aggregation
        )
        self._run, self._values = plan.run, parse_model_codec(plan.model_codec).values
        self._scale, self._report = scale, report
        self._model = self._restore(bundle, aggregation.optimizer)
        self._contents = {plan.task.digest: bundle.for_devices()}
        self._keep = keep_checkpoints if evaluate is not None else max(keep_checkpoints, _KEPT_UNTIL_JUDGED)
        self._patience = patience
        self._resume(plan, self._offer(), store.book.next_round(), has_settled=self._has_settled())

    def _give_up(self, failed: int) -> None:
        raise TrainingError(
            f"round {self.state.round + 1}: {failed} agents failed and none succeeded, for the reasons above; mend the "
            "task or their data, or go back to an earlier model with `fedprune rollback`, then start again: the run "
            "goes on with this round"
        )

    def _merge(self, round_: int) -> list[Event]:
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
        return [Merged(self._offer(), merged.left_out, is_last=self._has_settled())]

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
