"""Rounds whose updates are to a model: checked, folded, booked and stored as they come. What becomes of a round's
updates together is for its heirs to say."""

from __future__ import annotations

import logging
import math
from abc import ABC
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgspec

from aggregator.acceptance import accepted_update
from aggregator.agents_evaluation import check_evaluated
from aggregator.book import MOST_NAMES, AcceptedUpdate, RoundRecord
from aggregator.deltas import replays
from aggregator.exchange import Exchange
from aggregator.folding import Taken
from aggregator.global_model import GlobalModel
from aggregator.local_work import check_local_steps
from aggregator.partial_sum import tallies_of
from aggregator.round_merge import MergedRound, Merger, nowhere
from aggregator.round_state import Event, HistoryDiffers, Model, Phase, Plan, StoreUpdate, UpdateRefused, UpdateStored
from aggregator.run_store import RunStore
from aggregator.segments import write_segment
from aggregator.settings import AS_USUAL, Aggregation
from aggregator.traffic import Traffic, TrafficCount
from aggregator.workers import Checked, Verdict, WorkerEnded, Workers
from fedprune.codecs import OtherHistory, parse_codec, parse_model_codec
from fedprune.errors import ProtocolError
from fedprune.identity.device_keys import DeviceKeys
from fedprune.identity.manifest_signer import ManifestSigner
from fedprune.system.log import LimitedLog
from fedprune.system.usage import bytes_written, peak_memory_mb
from fedprune.task.bundle import Bundle
from fedprune.task.evaluation import Evaluate, LossScale
from fedprune.wire.link import Link
from fedprune.wire.messages import MAX_INLINE_BYTES
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import content_of
from fedprune.wire.versions import Versions

_log = logging.getLogger(__name__)


class UpdateExchange(Exchange, ABC):
    """Rounds in which agents train a model, `_model`. With `workers` updates are checked and folded beside this
    process, which is told of it by events for `hear_worker`. `evaluate`, `scale` and `aggregation` are for the
    merger."""

    _model: GlobalModel

    def __init__(
        self,
        plan: Plan,
        bundle: Bundle,
        topics: Topics,
        link: Link,
        store: RunStore,
        clock: Callable[[], float],
        keys: DeviceKeys | None,
        signer: ManifestSigner | None,
        spoken: Versions,
        workers: Workers | None,
        evaluate: Evaluate | None = None,
        scale: LossScale | None = None,
        aggregation: Aggregation = AS_USUAL,
    ) -> None:
        super().__init__(plan.cohort, topics, link, store.book, store.updates, clock, keys, signer, spoken)
        self._bundle, self._task = bundle, bundle.task
        self._store, self._workers = store, workers
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
            plan.sub_gateways,
        )
        self._most_inline = min(MAX_INLINE_BYTES, plan.chunk_bytes)
        self._merge_log = LimitedLog(_log)  # of its own: what agents say must not withhold what is said of them
        self._began: float | None = None
        self._written = bytes_written()

    def _notice(self) -> None:
        if self._began is None and self.state.phase is Phase.TRAINING:
            self._began = self._clock()

    def _store_updates(self, updates: Sequence[StoreUpdate]) -> list[Event]:
        updates = [self._with_tallies(action) for action in updates]
        if self._workers is None:
            return self._note_verdicts([(action, self._verdict(action)) for action in updates])
        said = [(action, self._says_nonsense(action)) for action in updates]
        checked = [(action, self._merger.remembered(action.agent, self._model)) for action, why in said if why is None]
        self._workers.check(checked, self._model.checkpoint.version)
        return self._note_verdicts([(action, why) for action, why in said if why is not None])

    def _with_tallies(self, action: StoreUpdate) -> StoreUpdate:
        """A sub-gateway's submit has its tallies in the update; without a loss, or of bytes that are no partial sum,
        none."""
        evaluated = action.submit.evaluated
        if action.agent not in self.state.plan.sub_gateways or evaluated is None or evaluated.loss is None:
            return action
        evaluated = msgspec.structs.replace(evaluated, tallies=tallies_of(action.blob))
        return replace(action, submit=msgspec.structs.replace(action.submit, evaluated=evaluated))

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
            if action.agent not in self.state.plan.sub_gateways:
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
