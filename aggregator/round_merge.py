"""A round's end: its accepted updates are judged and merged, and a merge that explodes is not kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aggregator.book import AcceptedUpdate, RoundRecord
from aggregator.explosion import has_exploded
from aggregator.global_model import GlobalModel, new_model
from aggregator.merging import Aggregate
from aggregator.outliers import LEAST_UPDATES, Norms, are_usual, model_norms, norms_of, outliers, typical
from fedprune.codecs import Codec, Key, Update, Values, check_update, decode_update
from fedprune.errors import ProtocolError, StorageError
from fedprune.model.tensors import Mask, Weights
from fedprune.system.disk import Disk
from fedprune.task.bundle import Task
from fedprune.task.evaluation import Evaluation, LossScale
from fedprune.wire.messages import Content
from fedprune.wire.transfer import content_of


@dataclass(frozen=True, eq=False)
class MergedRound:
    """The outcome of a round: its model, with the scores on the held-out examples.

    `left_out` gives the reason for each accepted update that is not in it, by agent, the largest update first. Where
    the merge was not `kept` the model is the one before, pruned to the schedule, and all updates are left out. `norms`
    are those that were typical of what was merged.
    """

    model: GlobalModel
    evaluation: Evaluation
    left_out: dict[str, str]
    kept: bool
    norms: Norms


class Merger:
    """Merges the updates of a run, which it reads from `disk`. `seed` keys what both sides draw. `evaluate` scores
    weights on held-out examples, whose losses lie on `scale`."""

    def __init__(
        self,
        task: Task,
        run: str,
        seed: int,
        values: Values,
        codec: Codec,
        disk: Disk,
        evaluate: Callable[[Weights], Evaluation],
        scale: LossScale,
    ) -> None:
        self._task, self._run, self._seed = task, run, seed
        self._values, self._codec = values, codec
        self._disk = disk
        self._evaluate, self._scale = evaluate, scale

    def check(self, blob: bytes, agent: str, model: GlobalModel) -> Norms:
        """The norms of an agent's update to `model`. Raises `ProtocolError` if it cannot be merged."""
        update = self._decode(blob, agent, model)
        check_update(update, self._task.table)
        return norms_of(update, model.checkpoint.weights, self._task.table)

    def merge(
        self, model: GlobalModel, updates: Mapping[str, AcceptedUpdate], records: Sequence[RoundRecord]
    ) -> MergedRound:
        """Merge a round's accepted updates into `model`. `records` are those of the rounds before.

        Raises `StorageError` if the disk no longer holds what it was given.
        """
        norms = {agent: Norms(update.delta_norm, update.statistics_norm) for agent, update in updates.items()}
        earlier = largest_typical(records)
        known = earlier if earlier.delta else model_norms(model.checkpoint.weights, self._task.table)
        left_out = outliers(norms, earlier if len(norms) >= LEAST_UPDATES else known)
        taken = {agent: update for agent, update in updates.items() if agent not in left_out}
        merged = self._fold(model, taken)
        evaluation = self._evaluate(merged.checkpoint.weights)
        of_taken = [norms[agent] for agent in taken]
        before = records[-1].loss if records else None
        unmerged = self._if_exploded(model, evaluation.loss, before or 0.0, are_usual(of_taken, known))
        if unmerged is not None:
            return _not_kept(unmerged, norms, evaluation.loss)
        return MergedRound(merged, evaluation, left_out, True, typical(of_taken))

    def _if_exploded(
        self, model: GlobalModel, loss: float, before: float, are_usual: bool
    ) -> tuple[GlobalModel, Evaluation] | None:
        """The model without the merge, if that made the loss explode. What pruning does is no fault of theirs."""
        if not has_exploded(loss, before, self._scale, are_usual=are_usual):
            return None
        unmerged = self._next(model, model.checkpoint.exact, model.checkpoint.mask)
        evaluation = self._evaluate(unmerged.checkpoint.weights)
        if not math.isfinite(evaluation.loss):
            return None
        exploded = has_exploded(loss, max(before, evaluation.loss), self._scale, are_usual=are_usual)
        return (unmerged, evaluation) if exploded else None

    def _fold(self, model: GlobalModel, updates: Mapping[str, AcceptedUpdate]) -> GlobalModel:
        checkpoint = model.checkpoint
        aggregate = Aggregate(self._task.table, checkpoint.weights, self._known_mask(model))
        for agent, update in updates.items():
            name = update_name(checkpoint.version, agent)
            blob = self._disk.read(name)
            if blob is None or content_of(blob) != Content(digest=update.digest, size=update.size):
                raise StorageError(f"the accepted update {name} is missing or damaged; restore it, or start a new run")
            try:
                aggregate.add(self._decode(blob, agent, model), update.weight)
            except ProtocolError as error:
                raise StorageError(
                    f"the accepted update {name} cannot be merged ({error}); undo what was changed in the settings"
                ) from error
        merged = aggregate.result(checkpoint.exact)
        return self._next(model, merged.weights, merged.mask)

    def _next(self, model: GlobalModel, weights: Weights, mask: Mask) -> GlobalModel:
        return new_model(weights, self._task, self._run, model.checkpoint.version + 1, self._values, mask)

    def _decode(self, blob: bytes, agent: str, model: GlobalModel) -> Update:
        key = Key(self._seed, model.checkpoint.version, agent)
        return decode_update(blob, self._task.table, self._known_mask(model), self._codec, key)

    def _known_mask(self, model: GlobalModel) -> Mask | None:
        return self._task.pruning.mask.rules.known_mask(model.checkpoint.mask)


def _not_kept(unmerged: tuple[GlobalModel, Evaluation], norms: Mapping[str, Norms], loss: float) -> MergedRound:
    model, evaluation = unmerged
    why = f"the merge was not kept: it took the held-out loss from {evaluation.loss:.3g} to {loss:.3g}"
    by_size = sorted(norms, key=lambda agent: (-norms[agent].delta, agent))
    return MergedRound(model, evaluation, dict.fromkeys(by_size, why), False, Norms(0.0, 0.0))


def update_name(round_: int, agent: str) -> str:
    """The name of an accepted update on the disk."""
    return f"{round_:06d}-{agent}.update"


def largest_typical(records: Sequence[RoundRecord]) -> Norms:
    """The largest norms that were typical of a round, 0 for none."""
    return Norms(
        max((record.delta_norm for record in records), default=0.0),
        max((record.statistics_norm for record in records), default=0.0),
    )
