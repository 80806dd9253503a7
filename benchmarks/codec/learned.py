"""The updates and the deltas of a federation that learns, each coded again by what its receiver knew: where the model
had moved, and what its agent had sent before.

To encode an update is all that an agent does between training and sending: to recall its history, to compress what was
learned and what is owed, and to write it with the history and without. To decode one is what a gateway does, the
recalling included.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean

from aggregator.global_model import moved_in
from benchmarks.bytes_to_accuracy.federation import Federation, Round, Sent
from benchmarks.codec.row import DELTAS, MAGNITUDE_BYTES, UPDATES, Row, copy_mb_s, entropy, mb_s, seconds
from edge_agent.local_round import PreparedUpdate
from edge_agent.updates import Learned, prepare_update
from fedprune.codecs import (
    Codec,
    Key,
    apply_delta,
    decode_update,
    delta_key,
    encode_delta,
    history_of,
    parse_codec,
    parse_model_codec,
    recall,
)
from fedprune.model.tensors import Array, Mask, TensorTable, Weights, sparsity
from fedprune.pruning.masks import take_kept

_REPETITIONS = 3
_UPDATE_HEADER = 7
_HISTORY_HEADER = _UPDATE_HEADER + 1
_DELTA_HEADER = 8
"""Bytes before those of the update that a delta is."""


def measure_learned(federation: Federation) -> list[Row]:
    """Run a federation with ternary updates and deltas coded by `history`: rows of all its updates, of the same ones
    coded by `context`, and of its deltas."""
    codec = parse_codec(federation.codec)
    without = parse_codec(federation.codec.replace("history", "context"))
    updates, others = _Tally(UPDATES, codec, _HISTORY_HEADER), _Tally(UPDATES, without, _UPDATE_HEADER)
    deltas = _Deltas(federation)
    for each in federation.rounds():
        coders = [_Updates(federation, each, tally) for tally in (updates, others)]
        for agent, sent in each.sent.items():
            for coder in coders:
                coder.add(agent, sent)
        deltas.add(each)
    return [tally.row(federation.bundle.task.table) for tally in (updates, others, deltas.tally)]


@dataclass
class _Tally:
    """What messages come to: of each the processor time, the bytes, and the values that were sent."""

    of: str
    codec: Codec
    header: int
    pruned: list[float] = field(default_factory=list)
    encoding: list[float] = field(default_factory=list)
    decoding: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    value_bytes: list[int] = field(default_factory=list)
    position_entropy: list[float] = field(default_factory=list)
    sign_entropy: list[float] = field(default_factory=list)

    def add(self, size: int, arrived: Iterable[Array], encoding: float, decoding: float, pruned: float) -> None:
        """`arrived` are the alive values of each tensor, 0 where nothing was sent."""
        vectors = list(arrived)
        sent = [vector[vector != 0.0] for vector in vectors]
        self.pruned.append(pruned)
        self.encoding.append(encoding)
        self.decoding.append(decoding)
        self.sizes.append(size)
        self.value_bytes.append(MAGNITUDE_BYTES if self.codec.remembers else len(self.codec.values.encode(sent)))
        self.position_entropy.append(entropy(vector != 0.0 for vector in vectors))
        self.sign_entropy.append(entropy(vector < 0.0 for vector in sent))

    def row(self, table: TensorTable) -> Row:
        parameters, size, values = table.parameters, fmean(self.sizes), fmean(self.value_bytes)
        of_positions, of_signs = fmean(self.position_entropy), fmean(self.sign_entropy)
        if self.codec.remembers:
            of_positions, of_signs = of_positions + of_signs, 0.0
        return Row(
            of=self.of,
            chain=str(self.codec),
            messages=len(self.sizes),
            parameters=parameters,
            sparsity=round(fmean(self.pruned), 3),
            encode_mb_s=mb_s(parameters, fmean(self.encoding)),
            decode_mb_s=mb_s(parameters, fmean(self.decoding)),
            memcpy_mb_s=copy_mb_s(parameters, _REPETITIONS),
            bytes=round(size),
            position_bytes=round(size - self.header - values),
            position_entropy_bytes=round(of_positions, 1),
            value_bytes=round(values),
            value_entropy_bytes=round(of_signs, 1),
        )


class _Updates:
    """Codes the updates of a round."""

    def __init__(self, federation: Federation, of_round: Round, tally: _Tally) -> None:
        bundle, model = federation.bundle, of_round.base.checkpoint
        form = bundle.forms.of(model.units)
        self._seed, self._model, self._table, self._tally = federation.seed, model, form.task.table, tally
        self._sent_by = parse_codec(federation.codec)
        self._moved = moved_in(model.weights, bundle.forms, form, tally.codec)

    def add(self, agent: str, sent: Sent) -> None:
        """Code an agent's update."""
        key, model, codec = Key(self._seed, self._model.version, agent), self._model, self._tally.codec
        decode = partial(decode_update, table=self._table, known_mask=model.mask, key=key, moved=self._moved)
        arrived = decode(sent.update.blob, codec=self._sent_by, remembered=sent.remembered).delta
        owed = sent.update.residual_if_accepted
        wanted = {name: vector + _alive(owed, name, model.mask) for name, vector in arrived.items()}
        encode = partial(self._encode, Learned(wanted, {}, model.mask), key, sent.remembered)
        blob = encode().blob
        decoded = partial(decode, blob, codec=codec, remembered=sent.remembered)
        pruned = sparsity(model.weights, self._table)
        self._tally.add(
            len(blob), decoded().delta.values(), seconds(encode, _REPETITIONS), seconds(decoded, _REPETITIONS), pruned
        )

    def _encode(self, learned: Learned, key: Key, remembered: tuple[bytes, ...]) -> PreparedUpdate:
        """As an agent does; nothing is owed any more beside what was learned."""
        codec, table = self._tally.codec, self._table
        history = recall(remembered if codec.remembers else (), table)
        return prepare_update(learned, None, table, codec, key, self._model.mask, self._moved, history)


class _Deltas:
    """Codes the deltas of a federation."""

    def __init__(self, federation: Federation) -> None:
        codec = parse_model_codec(federation.model_codec)
        assert codec.deltas is not None, "the model travels as deltas"
        self._federation, self._codec, self._values = federation, codec.deltas, codec.values
        header = _HISTORY_HEADER if codec.deltas.remembers else _UPDATE_HEADER
        self.tally = _Tally(DELTAS, codec.deltas, _DELTA_HEADER + header)

    def add(self, of_round: Round) -> None:
        """Code a round's delta, by what those before sent; a model that travels whole has none."""
        base, model, forms = of_round.base.checkpoint, of_round.model.checkpoint, self._federation.bundle.forms
        form, key = forms.of(model.units), delta_key(self._federation.seed, model.version)
        if of_round.model.delta is None or not form.is_as(forms.of(base.units)):
            return
        table, mask, codec = form.task.table, model.mask, self._codec
        moved = moved_in(base.weights, forms, form, codec)
        sent, history = base.sent, history_of(base.sent, table)
        encode = partial(encode_delta, model.exact, base.weights, mask, table, codec, key, moved, sent)
        blob = encode()
        decode = partial(apply_delta, base.weights, blob, mask, table, codec, key, self._values, moved, sent)
        arrived = decode_update(blob[_DELTA_HEADER:], table, mask, codec, key, moved, remembered=history).delta
        pruned = sparsity(model.weights, table)
        self.tally.add(
            len(blob), arrived.values(), seconds(encode, _REPETITIONS), seconds(decode, _REPETITIONS), pruned
        )


def _alive(weights: Weights, name: str, mask: Mask) -> Array:
    whole = weights[name]
    return take_kept(whole, mask[name]) if name in mask else whole.reshape(-1)
