"""Folding: a round's updates are checked and added to its sums as they arrive, in this process or in a worker's. The
update of a sub-gateway is the partial sum of its agents' updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from aggregator.global_model import moved_in
from aggregator.merging import Aggregate
from aggregator.outliers import Norms, norms_of
from aggregator.partial_sum import decode_partial_sum, is_partial_sum, part_norms
from aggregator.settings import Aggregation
from fedprune.codecs import Codec, Key, Update, UpdateDecoder, check_update, encode_signs
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Mask, TensorTable, weights_digest
from fedprune.network.description import Network
from fedprune.task.bundle import Task
from fedprune.task.checkpoints import Checkpoint
from fedprune.task.forms import Forms
from fedprune.task.versions import asked_votes, is_scored_by_updates
from fedprune.wire.transfer import content_of


@dataclass(frozen=True, eq=False)
class Folded:
    """The sums of some updates to a model, and which these are: by agent, the digest and the weight."""

    sums: Aggregate
    updates: dict[str, tuple[bytes, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Taken:
    """An update that can be merged: its norms, and what is remembered of it for the agent's next ones, if the codec
    remembers (`fedprune.codecs.history`)."""

    norms: Norms
    signs: bytes


class Folding:
    """Reads the updates of one round after another. `seed` keys what both sides draw. `forms` are those of the task:
    each model's weights, and updates to it, are in its own. Those of `sub_gateways` are partial sums."""

    def __init__(
        self,
        task: Task,
        network: Network,
        seed: int,
        codec: Codec,
        aggregation: Aggregation,
        sub_gateways: frozenset[str] = frozenset(),
    ) -> None:
        self.sub_gateways = sub_gateways
        self.forms = Forms(task, network)
        self._task, self._seed, self._codec, self._rule = task, seed, codec, aggregation.rule
        self._round: _Round | None = None

    def take(self, blob: bytes, agent: str, model: Checkpoint, weight: int, remembered: Sequence[bytes] = ()) -> Taken:
        """Check an agent's update to `model`, and fold it into the round's sums if that can be done as it arrives.

        Raises `ProtocolError` if it cannot be merged, as `read` does; then nothing was changed.
        """
        update, table = self.read(blob, agent, model, remembered), self._of(model).table
        if isinstance(update, Aggregate):
            return self._take_part(update, blob, agent, model, weight)
        check_update(update, table)
        norms = norms_of(update, model.weights, table)
        if self._folds_on_arrival(model):
            folded = self._of(model).folded
            folded.sums.add(update, weight)
            folded.updates[agent] = (content_of(blob).digest, weight)
        return Taken(norms, encode_signs(update.delta, update.mask, table) if self._codec.remembers else b"")

    def _take_part(self, part: Aggregate, blob: bytes, agent: str, model: Checkpoint, weight: int) -> Taken:
        if part.examples != weight or not weight:
            raise ProtocolError(f"its partial sum is of {part.examples} examples, and the submit says {weight}")
        part.check_bounds()
        norms = part_norms(part, model.weights, self._of(model).table)
        folded = self._of(model).folded
        folded.sums.merge(part)
        folded.updates[agent] = (content_of(blob).digest, weight)
        return Taken(norms, b"")

    def read(self, blob: bytes, agent: str, model: Checkpoint, remembered: Sequence[bytes] = ()) -> Update | Aggregate:
        """An agent's update to `model`, or a sub-gateway's partial sum; `remembered` is what was of its last updates,
        the newest first. Raises `ProtocolError`, and `OtherHistory` where the update is coded by something else."""
        if agent in self.sub_gateways:
            digest = bytes.fromhex(weights_digest(model.weights))
            return decode_partial_sum(blob, self.table_of(model), model.weights, self.known_mask(model), digest)
        if is_partial_sum(blob):
            raise ProtocolError(f"it is a partial sum; if {agent} is a gateway itself, name it in rounds.sub_gateways")
        return self._of(model).decoder.decode(blob, Key(self._seed, model.version, agent), remembered)

    def folded(self, model: Checkpoint) -> Folded:
        """What was folded of the updates to `model`."""
        return self._of(model).folded

    def forget(self) -> None:
        """Let go of the round's sums."""
        self._round = None

    def nothing_folded(self, model: Checkpoint) -> Folded:
        """The sums of no updates to `model`."""
        return Folded(Aggregate(self.table_of(model), model.weights, self.known_mask(model)))

    def known_mask(self, model: Checkpoint) -> Mask | None:
        """The mask that all share; None where each update brings its agent's own."""
        return self._task.pruning.mask.rules.known_mask(model.mask)

    def most_votes(self, model: Checkpoint) -> dict[str, int]:
        """For how many pruned weights of each tensor the round asks for votes."""
        return asked_votes(self._task, model.version, model.mask)

    def table_of(self, model: Checkpoint) -> TensorTable:
        return self.forms.of(model.units).task.table

    def _folds_on_arrival(self, model: Checkpoint) -> bool:
        """FedNova's factors, scores, and what comes back, follow from all of a round's updates."""
        is_chosen_by_all = is_scored_by_updates(self._task, model.version + 1) or self._of(model).most_votes
        return self._rule != "fednova" and not is_chosen_by_all

    def _of(self, model: Checkpoint) -> _Round:
        """What all of a round's updates share, made with the first."""
        if self._round is None or self._round.model is not model:
            form = self.forms.of(model.units)
            moved = moved_in(model.weights, self.forms, form, self._codec)
            table = form.task.table
            votes = self.most_votes(model)
            decoder = UpdateDecoder(table, self.known_mask(model), self._codec, moved, votes)
            self._round = _Round(model, table, votes, decoder, self.nothing_folded(model))
        return self._round


@dataclass(frozen=True, eq=False)
class _Round:
    model: Checkpoint
    table: TensorTable
    most_votes: dict[str, int]
    decoder: UpdateDecoder
    folded: Folded
