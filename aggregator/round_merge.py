"""A round's end: its accepted updates are judged and merged, and a merge that explodes is not kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from aggregator.agents_evaluation import AgentsEvaluation, agents_evaluation, loss_scale
from aggregator.book import AcceptedUpdate, RoundRecord, Spread
from aggregator.explosion import has_exploded
from aggregator.folding import Folded, Folding, Taken
from aggregator.global_model import NO_STATE, GlobalModel, new_model, next_model
from aggregator.local_work import fednova_scales, norms_of_usual_work
from aggregator.merging import Aggregate
from aggregator.outliers import LEAST_UPDATES, Norms, are_usual, model_norms, outliers, typical
from aggregator.segments import read_updates
from aggregator.sensitivity import RoundScores
from aggregator.server_optimizers import server_step
from aggregator.settings import AS_USUAL, Aggregation
from aggregator.voting import Votes, Voting
from fedprune.codecs import Codec, ModelCodec, Update
from fedprune.errors import ProtocolError, StorageError
from fedprune.model.tensors import Mask, Weights
from fedprune.network.description import Network
from fedprune.system.disk import Disk
from fedprune.task.bundle import Task
from fedprune.task.checkpoints import Checkpoint
from fedprune.task.evaluation import Evaluate, Evaluation, LossScale
from fedprune.task.forms import Form
from fedprune.task.versions import is_scored_by_updates, without_due_units


@dataclass(frozen=True, eq=False)
class MergedRound:
    """The outcome of a round: its model, and the scores of version `evaluated_version` on the held-out examples (see
    `RoundRecord`), with their spread over agents.

    `left_out` gives the reason for each accepted update that is not in it, by agent, the largest update first. Where a
    merge was not `kept` (this one or, since agents tell that a round later, the one before) the model is that from
    before it, pruned to the schedule, and all updates are left out. `named` are the agents to look at, the largest
    update first. `norms` are those that were typical of what was merged, `vote_bytes` the bytes of its votes for pruned
    weights to come back.
    """

    model: GlobalModel
    evaluation: Evaluation
    evaluated_version: int
    spreads: dict[str, Spread]
    left_out: dict[str, str]
    named: list[str]
    kept: bool
    norms: Norms
    vote_bytes: int = 0


@dataclass(frozen=True, eq=False)
class FormerRound:
    """The round that made a model: the checkpoint from before it, and the updates that were merged, by agent."""

    checkpoint: Checkpoint
    merged: dict[str, AcceptedUpdate]


Elsewhere = Callable[[Checkpoint, Folding], Iterable[Folded]]
"""Tells what was folded of the updates to a model in other processes."""


def nowhere(_: Checkpoint, __: Folding) -> Iterable[Folded]:
    """`Elsewhere` of a gateway whose updates are all folded in one process."""
    return ()


Remembered = Callable[[str, int], Sequence[bytes]]
"""Tells what is remembered of an agent's last accepted updates of the rounds before one, the newest first."""


def nothing_remembered(_: str, __: int) -> Sequence[bytes]:
    """`Remembered` of updates whose codec does without."""
    return ()


class Merger:
    """Merges the updates of a run, which it reads from `disk`. `network` is the task's. `seed` keys what both sides
    draw. `evaluate` scores weights on held-out examples; without it agents do. `scale` is that of the losses, as far as
    it is known. `elsewhere` has folded updates too. Those of `sub_gateways` are partial sums. `forms` are those of the
    task: each model's weights, and updates to it, are in its own. `remembered` is asked where the codec remembers."""

    def __init__(
        self,
        task: Task,
        network: Network,
        run: str,
        seed: int,
        model_codec: ModelCodec,
        codec: Codec,
        disk: Disk,
        evaluate: Evaluate | None,
        scale: LossScale | None,
        aggregation: Aggregation = AS_USUAL,
        elsewhere: Elsewhere = nowhere,
        remembered: Remembered = nothing_remembered,
        sub_gateways: frozenset[str] = frozenset(),
    ) -> None:
        self._folding = Folding(task, network, seed, codec, aggregation, sub_gateways)
        self.forms = self._folding.forms
        self._task, self._run, self._seed = task, run, seed
        self._model_codec, self._elsewhere = model_codec, elsewhere
        self._remembered = remembered if codec.remembers else nothing_remembered
        self._disk = disk
        self._evaluate, self._scale = evaluate, scale
        self._aggregation = aggregation

    def take(self, blob: bytes, agent: str, model: GlobalModel, weight: int) -> Taken:
        """Check an agent's update to `model`, which will be accepted, and fold it into the round's sums as it arrives.

        Raises `ProtocolError` if it cannot be merged (`OtherHistory` if it is coded by a history that is not remembered
        here); then nothing was changed.
        """
        return self._folding.take(blob, agent, model.checkpoint, weight, self.remembered(agent, model))

    def remembered(self, agent: str, model: GlobalModel) -> Sequence[bytes]:
        """What an agent's update to `model` may be coded by."""
        return self._remembered(agent, model.checkpoint.version)

    def form_of(self, model: GlobalModel) -> Form:
        """The form of the task that a model is in."""
        return self.forms.of(model.checkpoint.units)

    def merge(
        self,
        model: GlobalModel,
        updates: Mapping[str, AcceptedUpdate],
        records: Sequence[RoundRecord],
        former: Callable[[], FormerRound] | None = None,
    ) -> MergedRound:
        """Merge a round's accepted updates into `model`. `records` are those of the rounds before; `former` is the last
        of these, which is asked for where agents evaluate.

        Raises `StorageError` if the disk no longer holds what it was given.
        """
        agents = agents_evaluation(updates, self._task)
        scale = self._scale or loss_scale(self._task, records)
        if self._evaluate is None and former is not None and _is_judged(agents, records):
            unkept = self._if_former_exploded(model, agents, updates, records, former(), scale)
            if unkept is not None:
                return unkept
        norms, known, left_out = self._judged(model, updates, records)
        merged, vote_bytes = self._fold(model, updates, left_out)
        of_taken = [norms[agent] for agent in updates if agent not in left_out]
        evaluation, evaluated = agents.evaluation, model.checkpoint.version
        if self._evaluate is not None:
            evaluation, evaluated = self._evaluated(merged), merged.checkpoint.version
            before = records[-1].loss if records else None
            unmerged = self._if_exploded(model, evaluation.loss, before or 0.0, scale, are_usual(of_taken, known))
            if unmerged is not None:
                return _not_kept(unmerged, agents, norms, evaluation.loss)
        return MergedRound(
            merged, evaluation, evaluated, agents.spreads, left_out, [*left_out], True, typical(of_taken), vote_bytes
        )

    def part(
        self, model: GlobalModel, updates: Mapping[str, AcceptedUpdate], records: Sequence[RoundRecord]
    ) -> tuple[Aggregate, MergedRound]:
        """What a sub-gateway's accepted updates to `model` add up to, and the outcome of its round, which leaves the
        model to the gateway above. Raises what `merge` does."""
        agents, (norms, _, left_out) = agents_evaluation(updates, self._task), self._judged(model, updates, records)
        sums, _, _ = self._sums_of(model, updates, left_out)
        usual, version = typical([norms[agent] for agent in updates if agent not in left_out]), model.checkpoint.version
        return sums, MergedRound(model, agents.evaluation, version, agents.spreads, left_out, [*left_out], True, usual)

    def _judged(
        self, model: GlobalModel, updates: Mapping[str, AcceptedUpdate], records: Sequence[RoundRecord]
    ) -> tuple[dict[str, Norms], Norms, dict[str, str]]:
        """The norms of a round's updates, those that were known to be usual before, and which updates are outliers."""
        norms = norms_of_usual_work(updates)
        earlier = largest_typical(records)
        known = earlier if earlier.delta else model_norms(model.checkpoint.weights, self.form_of(model).task.table)
        return norms, known, outliers(norms, earlier if len(norms) >= LEAST_UPDATES else known)

    def _if_exploded(
        self, model: GlobalModel, loss: float, before: float, scale: LossScale, are_usual: bool
    ) -> tuple[GlobalModel, Evaluation] | None:
        """The model without the merge, if that made the loss explode. What pruning does is no fault of theirs."""
        if not has_exploded(loss, before, scale, are_usual=are_usual):
            return None
        was = model.checkpoint
        unmerged = self._next(model, was.exact, was.mask, NO_STATE)  # its momentum would make the same step again
        evaluation = self._evaluated(unmerged)
        if not math.isfinite(evaluation.loss):
            return None
        exploded = has_exploded(loss, max(before, evaluation.loss), scale, are_usual=are_usual)
        return (unmerged, evaluation) if exploded else None

    def _if_former_exploded(
        self,
        model: GlobalModel,
        agents: AgentsEvaluation,
        updates: Mapping[str, AcceptedUpdate],
        records: Sequence[RoundRecord],
        former: FormerRound,
        scale: LossScale,
    ) -> MergedRound | None:
        """The model from before the former round, if agents find that its merge made their loss explode.

        What they trained from the exploded model is left out. That it was pruning which did it would show in the next
        round, since a model that was gone back to is not judged.
        """
        loss, before, version = agents.evaluation.loss, records[-1].loss, model.checkpoint.version
        norms = norms_of_usual_work(former.merged)
        earlier = largest_typical(records[:-1])
        table = self.forms.of(former.checkpoint.units).task.table
        known = earlier if earlier.delta else model_norms(former.checkpoint.weights, table)
        if before is None or not has_exploded(loss, before, scale, are_usual=are_usual(norms.values(), known)):
            return None
        was = replace(former.checkpoint, optimizer_state=NO_STATE)  # its momentum would make the same step again
        unmerged = self._whole(model, was)  # a delta may lead back slowly
        why = f"the merge of round {version} was not kept: it took the agents' loss from {before:.3g} to {loss:.3g}"
        return MergedRound(
            unmerged,
            agents.evaluation,
            version,
            agents.spreads,
            dict.fromkeys(_by_size(norms_of_usual_work(updates)), why),
            _by_size(norms),
            False,
            Norms(0.0, 0.0),
        )

    def _fold(
        self, model: GlobalModel, updates: Mapping[str, AcceptedUpdate], left_out: Collection[str]
    ) -> tuple[GlobalModel, int]:
        """The model of the accepted updates but for those left out, and the bytes of their votes."""
        checkpoint = model.checkpoint
        sums, scoring, voting = self._sums_of(model, updates, left_out)
        merged = sums.result(checkpoint.exact)
        del sums
        weights, state = merged.weights, checkpoint.optimizer_state
        if (optimizer := self._aggregation.optimizer) is not None:
            table = self.form_of(model).task.table
            weights, state = server_step(optimizer, checkpoint.exact, weights, state, merged.mask, table)
        scores = None if scoring is None else scoring.scores(checkpoint.weights)
        if voting is None:
            return self._next(model, weights, merged.mask, state, scores), 0
        return self._next(model, weights, merged.mask, state, scores, voting.sums), voting.bytes

    def _sums_of(
        self, model: GlobalModel, updates: Mapping[str, AcceptedUpdate], left_out: Collection[str]
    ) -> tuple[Aggregate, RoundScores | None, Voting | None]:
        """The sums of a round's accepted `updates` but for those left out, whether they were folded as they arrived or
        are read again: whole numbers come to the same bits."""
        folded = self._folding.folded(model.checkpoint)
        for part in self._elsewhere(model.checkpoint, self._folding):
            folded.sums.merge(part.sums)
            folded.updates.update(part.updates)
        taken = {agent: update for agent, update in updates.items() if agent not in left_out}
        is_otherwise = any(
            agent not in updates or each != _as_folded(updates[agent]) for agent, each in folded.updates.items()
        )
        # No partial sum is taken out of another; there are few, so that they are added anew.
        if is_otherwise or not self._folding.sub_gateways.isdisjoint(folded.updates.keys() - taken.keys()):
            folded = self._folding.nothing_folded(model.checkpoint)
        scoring, scales = self._scoring(model.checkpoint), self._scales(model, taken)
        voting = self._voting(model)
        missing = {agent: update for agent, update in taken.items() if agent not in folded.updates}
        surplus = {agent: updates[agent] for agent in folded.updates if agent not in taken}
        for agent, update in self._read(model, missing):
            if isinstance(update, Aggregate):
                folded.sums.merge(update)
                continue
            folded.sums.add(update, updates[agent].weight, scales.get(agent, 1.0))
            if scoring is not None:
                scoring.add(update, updates[agent].weight)
            if voting is not None:
                voting.add(update, updates[agent].weight)
        for agent, update in self._read(model, surplus):
            assert isinstance(update, Update)
            folded.sums.remove(update, updates[agent].weight)
        self._folding.forget()
        return folded.sums, scoring, voting

    def _scales(self, model: GlobalModel, updates: Mapping[str, AcceptedUpdate]) -> dict[str, float]:
        if self._aggregation.rule != "fednova":
            return {}
        training = self._task.training
        rate = training.learning_rate_at(model.checkpoint.version * training.clock_steps_per_round)
        return fednova_scales(updates, training, rate)

    def _read(
        self, model: GlobalModel, updates: Mapping[str, AcceptedUpdate]
    ) -> Iterator[tuple[str, Update | Aggregate]]:
        for agent, blob in read_updates(self._disk, updates):
            try:
                yield agent, self._folding.read(blob, agent, model.checkpoint, self.remembered(agent, model))
            except ProtocolError as error:
                raise StorageError(
                    f"the accepted update of {agent} cannot be merged ({error}); undo what was changed in the settings"
                ) from error

    def _scoring(self, checkpoint: Checkpoint) -> RoundScores | None:
        """The sums that the next mask is scored by, if it is by what agents sent."""
        if not is_scored_by_updates(self._task, checkpoint.version + 1):
            return None
        return RoundScores(self._task.pruning.scores, checkpoint.mask)

    def _voting(self, model: GlobalModel) -> Voting | None:
        """The sums by which pruned weights come back in the next mask, if any does."""
        most = self._folding.most_votes(model.checkpoint)
        return Voting(model.checkpoint.mask, most) if most else None

    def _next(
        self,
        model: GlobalModel,
        weights: Weights,
        mask: Mask,
        state: Weights,
        scores: Weights | None = None,
        votes: Votes | None = None,
    ) -> GlobalModel:
        codec, base = self._model_codec, model.checkpoint
        if codec.deltas is None:
            return self._whole(model, replace(base, exact=weights, mask=mask, optimizer_state=state), scores, votes)
        return next_model(weights, self.forms, self._run, base, codec.values, codec.deltas, self._seed, state)

    def _whole(
        self, model: GlobalModel, was: Checkpoint, scores: Weights | None = None, votes: Votes | None = None
    ) -> GlobalModel:
        """The model after `model`, of the unrounded weights, the mask and the optimizer's state that `was` has."""
        whole, form, version = self.forms.whole, self.forms.of(was.units), model.checkpoint.version + 1
        exact, state = form.expanded(was.exact), whole.carry_parts(form, was.optimizer_state)
        mask = without_due_units(exact, form.expanded(was.mask), whole.task, whole.network, was.version, version)
        following = self.forms.after(form, mask, was.version, version)
        values, scored = self._model_codec.values, None if scores is None else form.expanded(scores)
        return new_model(exact, whole.task, self._run, version, values, mask, state, following, scored, votes)

    def _evaluated(self, model: GlobalModel) -> Evaluation:
        assert self._evaluate is not None
        return self._evaluate(model.checkpoint.weights, self.form_of(model))


def _is_judged(agents: AgentsEvaluation, records: Sequence[RoundRecord]) -> bool:
    """True where agents evaluated the model, and the one before it, and it is no model that was gone back to."""
    last = records[-1] if records else None
    return bool(agents.evaluation.examples and last and last.kept and last.evaluated_version == last.round)


def _not_kept(
    unmerged: tuple[GlobalModel, Evaluation], agents: AgentsEvaluation, norms: Mapping[str, Norms], loss: float
) -> MergedRound:
    model, evaluation = unmerged
    why = f"the merge was not kept: it took the held-out loss from {evaluation.loss:.3g} to {loss:.3g}"
    left_out = dict.fromkeys(_by_size(norms), why)
    return MergedRound(
        model, evaluation, model.checkpoint.version, agents.spreads, left_out, [*left_out], False, Norms(0.0, 0.0)
    )


def _by_size(norms: Mapping[str, Norms]) -> list[str]:
    """The agents, the largest update first."""
    return sorted(norms, key=lambda agent: (-norms[agent].delta, agent))


def _as_folded(update: AcceptedUpdate) -> tuple[bytes, int]:
    return update.digest, update.weight


def largest_typical(records: Sequence[RoundRecord]) -> Norms:
    """The largest norms that were typical of a round whose merge was kept, 0 for none."""
    undone = {record.evaluated_version for record in records if not record.kept}
    merged = [record for record in records if record.round + 1 not in undone]
    return Norms(
        max((record.delta_norm for record in merged), default=0.0),
        max((record.statistics_norm for record in merged), default=0.0),
    )
