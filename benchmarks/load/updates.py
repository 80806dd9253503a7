"""The updates of a fleet that trains nothing. Each is made of a drawn delta as an agent makes one of what it learned:
with what is owed, and coded by what was sent before.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.round_model import RoundModel
from edge_agent.updates import Learned, prepare_update
from fedprune.codecs import NO_HISTORY, Key, alive_sizes, moved_since, parse_codec, recall
from fedprune.codecs.history import MOST_UPDATES
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorClass, TensorTable, Weights
from fedprune.task.bundle import Bundle
from fedprune.wire.messages import Assignment

KINDS = 100
"""Different updates of a round. Agents whose numbers differ by so many send the same."""

_LARGEST = 0.005
"""Of what a kind learns in every round alike, and as much of what it learns in one alone."""

_POWER = 3
"""Of the drawn numbers by which places learn unequally much: a history of eight updates then saves a seventh of the
bytes, as it does where updates are learned."""


@dataclass(frozen=True)
class _Sent:
    """What agents of a kind keep of their accepted updates."""

    residual: Weights
    signs: tuple[bytes, ...]


class DrawnUpdates:
    """The updates of the first `kinds` kinds, round by round. Every one is accepted."""

    def __init__(self, bundle: Bundle, kinds: int) -> None:
        self._bundle, self._kinds = bundle, kinds
        self._sent: dict[int, _Sent] = {}

    def of_round(self, model: RoundModel, assignment: Assignment) -> list[bytes]:
        """The bytes of each kind's update to the model of an assignment."""
        codec, table = parse_codec(assignment.known.codec), model.form.task.table
        first = self._bundle.forms.drawn_in(model.form) if codec.asks_what_moved else None
        moved = moved_since(first, model.weights, table)
        blobs = []
        for kind in range(self._kinds):
            key, sent = Key(assignment.known.seed, assignment.round, f"a{kind}"), self._sent.get(kind)
            signs = () if sent is None else sent.signs
            update = prepare_update(
                _drawn(kind, assignment.round, model, table),
                None if sent is None else sent.residual,
                table,
                codec,
                key,
                model.mask,
                moved,
                recall(signs, table) if codec.remembers else NO_HISTORY,
            )
            signs = (update.signs, *signs)[:MOST_UPDATES] if update.signs else ()
            self._sent[kind] = _Sent(update.residual_if_accepted, signs)
            blobs.append(update.blob)
        return blobs


def _drawn(kind: int, round_: int, model: RoundModel, table: TensorTable) -> Learned:
    """What a kind learns in a round. The load's mask stays the same, so each alive value has a number."""
    delta, always, once = {}, Keyed(kind, "load"), Keyed(kind, "load", round_)
    for name, size in alive_sizes(table, model.mask).items():
        learns = always.uniform(size, 0.0, 1.0) ** _POWER
        in_all, in_this = (stream.uniform(size, -_LARGEST, _LARGEST) for stream in (always, once))
        delta[name] = learns * (in_all + in_this)
    statistics = {spec.name: model.weights[spec.name] for spec in table.of(TensorClass.STATISTICS)}
    return Learned(delta, statistics, model.mask)
