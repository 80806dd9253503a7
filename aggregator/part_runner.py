"""A sub-gateway's rounds: a parent gives each, and takes what the agents' updates add up to.

To its agents a sub-gateway is a gateway like any other, with a run, a book and a signature of its own. The model is the
parent's, which evaluates and prunes it. Outliers among the agents are judged here, where their norms are known, and the
parent judges parts. An update is accepted once it is on this disk, and stays there until the parent gives another
round: so a part that was lost with the process, or is asked for again, is made once more, of the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from aggregator.book import RoundRecord
from aggregator.cohort import Standing
from aggregator.deltas import keep_delta
from aggregator.global_model import GlobalModel
from aggregator.part_submit import submitted_part
from aggregator.round_remarks import say_left_out
from aggregator.round_state import Event, Phase, Plan, RoundGiven
from aggregator.run_store import RunStore
from aggregator.segments import forget_segments
from aggregator.update_exchange import UpdateExchange
from aggregator.workers import Workers
from fedprune.errors import TrainingError
from fedprune.identity.device_keys import DeviceKeys
from fedprune.identity.manifest_signer import ManifestSigner
from fedprune.model.tensors import weights_digest
from fedprune.task.bundle import Bundle
from fedprune.task.checkpoints import forget_checkpoints, save_checkpoint
from fedprune.wire.link import Link
from fedprune.wire.messages import Submit
from fedprune.wire.topics import Topics
from fedprune.wire.versions import SPOKEN, Versions

_KEPT = 1
"""Checkpoints: workers read the present model."""

_UNCOUNTED = "the gateway above did without this round's updates of this one"


@dataclass(frozen=True, eq=False)
class GivenRound:
    """A round of the parent's: its model, the deltas that lead to it, by the version that each leads to, as far as they
    are known, the seconds that it may take, and the last round before whose part the parent merged, None if it did
    without that."""

    model: GlobalModel
    deltas: Mapping[int, bytes]
    seconds: float
    counted: int | None

    @property
    def round(self) -> int:
        return self.model.checkpoint.version


class PartRunner(UpdateExchange):
    """The agents' side of a sub-gateway. Construction resumes what the book says of the first round that is `given`.

    `hand_over` makes a partial sum, and what is said of it, durable, and sees to it that the parent gets it; `decline`
    tells it why there is none of the parent's run and round.
    `report` is told of each round whose part was handed over.
    """

    def __init__(
        self,
        plan: Plan,
        bundle: Bundle,
        topics: Topics,
        link: Link,
        store: RunStore,
        given: GivenRound,
        *,
        hand_over: Callable[[Submit, bytes], None],
        decline: Callable[[str, int, TrainingError], None],
        report: Callable[[RoundRecord], None],
        clock: Callable[[], float],
        keys: DeviceKeys | None = None,
        signer: ManifestSigner | None = None,
        workers: Workers | None = None,
        spoken: Versions = SPOKEN,
    ) -> None:
        super().__init__(plan, bundle, topics, link, store, clock, keys, signer, spoken, workers)
        self._contents = {plan.task.digest: bundle.blob}
        self._hand_over, self._decline, self._report = hand_over, decline, report
        self._next: GivenRound | None = None
        self._take(given)
        self._resume(plan, self._offer(), given.round)
        self.state = replace(self.state, most_seconds=given.seconds)
        if self._is_booked(given.round):  # it was handed over, and is asked for
            self.state = replace(self.state, phase=Phase.MERGING)
            self._merge(given.round)

    def give(self, given: GivenRound) -> None:
        """Go on with a round of the parent's; with one that goes on already, or hand its part over once more. One that
        was given up is begun anew: the agents may have been mended."""
        is_over = given.round == self.state.round and self.state.phase is Phase.MERGING
        if is_over and self._is_booked(given.round):
            self._merge(given.round)
        elif is_over or given.round != self.state.round:
            self._next = given
            self.settle()
            self._go_on()

    def allow(self, seconds: float) -> None:
        """The parent leaves so many seconds for the round from now on, if that is more than it did."""
        self.state = replace(self.state, most_seconds=max(self.state.most_seconds, seconds))

    def finish(self) -> None:
        """The parent's run is over."""
        if not self.is_done:
            self.handle(RoundGiven(self.state.round, None, math.inf))

    def _go_on(self) -> None:
        """Begin the next round, unless an update is on its way to the disk: then as soon as it is there."""
        if self._next is None or self.state.cohort.count(Standing.STORING):
            return
        given, self._next = self._next, None
        self._take(given)
        uncounted = self._store.book.left_out_in(self.state.round)
        self.handle(RoundGiven(given.round, self._offer(), given.seconds, uncounted))

    def tick(self) -> None:
        super().tick()
        self._go_on()

    def _take(self, given: GivenRound) -> None:
        """Have the round's model, durably where workers read it, and book whether the updates of the last round of
        which there are any count."""
        book = self._store.book
        forget_segments(self._store.updates, given.round)
        former = book.latest(given.round)
        if former is not None:
            book.forget(former)
            has_begun = bool(book.cohort(given.round)[0])  # then it was said when the round was given first
            if former != given.counted and not has_begun:
                book.leave_out(former, dict.fromkeys(book.merged(former), _UNCOUNTED))
        self._model = given.model
        for version, delta in sorted(given.deltas.items()):
            keep_delta(self._store.checkpoints, version, delta, len(self._model.blob))
        if self._workers is not None:
            save_checkpoint(self._store.checkpoints, self._model.checkpoint)
            forget_checkpoints(self._store.checkpoints, _KEPT, None)

    def _is_booked(self, round_: int) -> bool:
        """It was merged; a round that was given up is declined, and not booked."""
        return any(record.round == round_ for record in self._store.book.records())

    def _give_up(self, failed: int) -> None:
        self._decline(
            self._model.checkpoint.run,
            self.state.round,
            TrainingError(
                f"round {self.state.round + 1}: {failed} agents of this sub-gateway failed and none succeeded; its log "
                "says why; mend their data, and they take part in the next round"
            ),
        )

    def _merge(self, round_: int) -> list[Event]:
        """Hand the round's part over, once it is booked; which round is next is for the parent to say."""
        book = self._store.book
        updates = book.accepted(round_)
        records = book.records()
        sums, merged = self._merger.part(self._model, updates, [each for each in records if each.round < round_])
        if all(each.round != round_ for each in records):
            record = self._record(round_, updates, merged, [])
            book.finish(record, merged.left_out, forgets=False)  # it may be asked for again
            say_left_out(self._merge_log, round_, merged)
            self._report(record)
        checkpoint = self._model.checkpoint
        taken = {agent: update for agent, update in updates.items() if agent not in merged.left_out}
        try:
            submit, part = submitted_part(
                checkpoint.run, round_, sums, weights_digest(checkpoint.weights), taken, self._task
            )
        except TrainingError as error:
            self._decline(checkpoint.run, round_, error)
        else:
            self._hand_over(submit, part)
        return []
