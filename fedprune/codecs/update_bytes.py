"""The byte format of an update (uplink), little-endian throughout.

==========  ======================================================================================================
4 bytes     magic and version: ``FPU2``
uint16      the codec: the lower 16 bits of the CRC-32 of its description, which goes on, with ``context`` and
            ``history``, over where each tensor has moved, a bit for each weight, and over the history: of each update
            what `encode_signs` makes, the newest first; in a delta of what the last ones sent
uint8       0 both sides know the mask, 1 it travels with the update
uint8       with ``history``, of how many of the agent's last updates that is; in a delta 1, or 0 without a history
masks       where each prunable tensor is kept (`Smallest`), unless the mask is known
statistics  all values of statistics tensors in fp32
positions   which of the alive values of all tensors, one tensor after another, were chosen, if the codec codes that;
            with ``history`` also their signs
values      the values that are sent, by the codec; with ``history`` their magnitude
votes       for pruned weights to come back (`fedprune.codecs.votes`), in rounds that ask for them
==========  ======================================================================================================

Alive are the values of prunable tensors that the mask keeps, row by row, and all values of dense tensors; integer and
frozen tensors do not travel. Tensors are in the order of the tensor table.

Nothing in a blob says how long it is: table, mask and codec do, and every byte must be accounted for. Each part has
exactly one form as bytes: readers refuse what writers would not have written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from fedprune.codecs.codec import Codec, Compressed
from fedprune.codecs.floats import Fp32
from fedprune.codecs.history import NO_HISTORY, BusyLines, History, OtherHistory, Recalled, recall
from fedprune.codecs.links import Key, Places, Sizes, Support, Vector, split
from fedprune.codecs.moved import NOTHING_MOVED
from fedprune.codecs.positions import Coding, Smallest
from fedprune.codecs.reader import Reader, naming
from fedprune.codecs.signed_coder import SignedCoder
from fedprune.codecs.ternary import encode_magnitude, read_magnitude, signed, signs_of
from fedprune.codecs.update import Update
from fedprune.codecs.votes import encode_votes, read_votes
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Mask, TensorClass, TensorSpec, TensorTable, Weights
from fedprune.pruning.regrowth import Votes

NO_VOTES: Mapping[str, Any] = MappingProxyType({})
"""Those of a round after which no pruned weight comes back."""

_MAGIC = b"FPU2"
_COMPRESSED = (TensorClass.PRUNABLE, TensorClass.DENSE)


def encode_update(
    sent: Compressed,
    statistics: Weights,
    mask: Mask,
    table: TensorTable,
    codec: Codec,
    *,
    mask_is_known: bool,
    moved: Mask = NOTHING_MOVED,
    votes: Votes = NO_VOTES,
    history: History = NO_HISTORY,
) -> bytes:
    """Write an update.

    Args:
        sent: what `codec` made of it.
        statistics: the statistics tensors, with the shapes in `table`.
        mask: where the prunable tensors are kept.
        table: the task's tensor table.
        codec: the one that compressed it.
        mask_is_known: the receiver has the same mask, which then costs nothing.
        moved: what `moved_since` says of the model that is updated, if the codec asks.
        votes: those for pruned weights to come back, if the round asks.
        history: the agent's, by which it is coded if the codec remembers.

    Raises:
        ValueError: an array does not fit `table` or is not finite.

    Example:
        >>> from fedprune.codecs.notation import parse_codec
        >>> table = TensorTable((TensorSpec("kernel", (4,), "float32", TensorClass.PRUNABLE, "dense"),))
        >>> codec, key = parse_codec("mask | int8"), Key(1, 0, "pi-1")
        >>> mask = {"kernel": np.array([True, False, False, True])}
        >>> sent = codec.compress({"kernel": np.float32([1, 4])}, codec.init(table), key)
        >>> blob = encode_update(sent, {}, mask, table, codec, mask_is_known=True)
        >>> len(blob), decode_update(blob, table, mask, codec, key).delta["kernel"].round(1).tolist()
        (13, [1.0, 4.0])
    """
    names = [spec.name for spec in table.of(*_COMPRESSED)]
    vectors = [sent.tensors[name] for name in names]
    for name, vector in zip(names, vectors, strict=True):
        if not np.isfinite(vector).all():
            raise ValueError(f"tensor {name} holds NaN or infinity")
    places = _moved(table, moved, codec)
    fingerprint = _fingerprint(codec.check(places), history)
    parts = [_MAGIC, fingerprint.to_bytes(2, "little"), bytes([not mask_is_known])]
    if codec.remembers:
        parts.append(bytes([len(history.parts)]))
    if not mask_is_known:
        parts += [Smallest().encode(mask[spec.name].reshape(-1)) for spec in table.of(TensorClass.PRUNABLE)]
    parts += [_statistics(spec, statistics) for spec in table.of(TensorClass.STATISTICS)]
    chosen = np.concatenate([*(sent.support[name] for name in names if name in sent.support), np.empty(0, np.bool_)])
    masks = _places(table, mask, default=True)
    if codec.remembers:
        coded = SignedCoder(masks, places).encode(chosen, signs_of(vectors), _recalled(history, table))
        parts += [coded, encode_magnitude(vectors)]
    else:
        if codec.positions is not None:
            parts.append(codec.positions(masks, places).encode(chosen))
        parts.append(codec.values.encode(vectors))
    return b"".join([*parts, encode_votes(votes)])


def decode_update(
    blob: bytes,
    table: TensorTable,
    known_mask: Mask | None,
    codec: Codec,
    key: Key,
    moved: Mask = NOTHING_MOVED,
    most_votes: Mapping[str, int] = NO_VOTES,
    remembered: Sequence[bytes] | History = (),
) -> Update:
    """Read an update. Time and memory are bounded by the size of `table`.

    Args:
        blob: foreign bytes.
        table: the task's tensor table.
        known_mask: the mask that both sides have; None if the update must carry its own.
        codec: the one that the update must be of.
        key: the update's, by which places and signs that both sides draw are known.
        moved: what `moved_since` says of the model that is updated, if the codec asks.
        most_votes: for how many pruned weights of each tensor it may have votes, if the round asks for them.
        remembered: the agent's last updates, the newest first, of each what `encode_signs` made; or all the history by
            which the update may be coded.

    Returns:
        The update, whose numbers are finite; `check_update` checks them further.

    Raises:
        OtherHistory: the update is coded by a history that is not remembered here.
        ProtocolError: the bytes are not those of any update that `encode_update` writes so.
    """
    return UpdateDecoder(table, known_mask, codec, moved, most_votes).decode(blob, key, remembered)


class UpdateDecoder:
    """Reads all updates of a round, which are of the same table, mask, codec and model. What follows from these is
    found once, for the first update that needs it.

    Args:
        table, known_mask, codec, moved, most_votes: as for `decode_update`.
    """

    def __init__(
        self,
        table: TensorTable,
        known_mask: Mask | None,
        codec: Codec,
        moved: Mask = NOTHING_MOVED,
        most_votes: Mapping[str, int] = NO_VOTES,
    ) -> None:
        self._table, self._known_mask, self._codec, self._most_votes = table, known_mask, codec, most_votes
        self._moved = _moved(table, moved, codec)

    @cached_property
    def _check(self) -> int:
        return self._codec.check(self._moved)

    @cached_property
    def _known(self) -> _Alive | None:
        return None if self._known_mask is None else self._alive(self._known_mask)

    def decode(self, blob: bytes, key: Key, remembered: Sequence[bytes] | History = ()) -> Update:
        """Read one update; see `decode_update`."""
        reader, known = Reader(blob), self._known
        reader.expect(_MAGIC)
        fingerprint, carries_mask = reader.unpack("HB")
        history = self._history(reader, fingerprint, remembered)
        if fingerprint != _fingerprint(self._check, history):
            raise ProtocolError(f"the update is not of the codec {str(self._codec)!r}, or of another model")
        if carries_mask != (known is None):
            raise ProtocolError(f"the update's mask byte is {carries_mask}, not {int(known is None)}")
        alive = self._alive(_read_mask(reader, self._table)) if known is None else known
        statistics = {}
        for spec in self._table.of(TensorClass.STATISTICS):
            with naming(f"tensor {spec.name}"):
                (vector,) = Fp32().read(reader, [spec.size])
            statistics[spec.name] = vector.reshape(spec.shape)
        delta = _read_alive(reader, self._codec, key, alive, _recalled(history, self._table))
        votes = read_votes(reader, alive.mask, self._most_votes)
        reader.finish()
        return Update(delta=delta, statistics=statistics, mask=alive.mask, votes=votes)

    def _history(self, reader: Reader, fingerprint: int, remembered: Sequence[bytes] | History) -> History:
        """The history by which an update is coded. Raises `OtherHistory` if it is none that is remembered here.

        An agent may have forgotten its own; a model's belongs to the version, and its delta is coded by it.
        """
        (count,) = reader.unpack("B") if self._codec.remembers else (0,)
        if isinstance(remembered, History):
            if len(remembered.parts) != count or (count and fingerprint != _fingerprint(self._check, remembered)):
                raise OtherHistory("the delta is coded by something else than the last deltas sent here")
            return remembered
        if not count:
            return NO_HISTORY
        history = recall(remembered[:count], self._table)
        if len(history.parts) != count or fingerprint != _fingerprint(self._check, history):
            last = "update, which is another" if count == 1 else f"{count} updates, which are others"
            raise OtherHistory(f"the update is coded by its sender's last {last} here")
        return history

    def _alive(self, mask: Mask) -> _Alive:
        masks, sizes = _places(self._table, mask, default=True), alive_sizes(self._table, mask)
        if self._codec.remembers:
            return _Alive(mask, sizes, None, SignedCoder(masks, self._moved))
        coding = self._codec.positions
        return _Alive(mask, sizes, None if coding is None else coding(masks, self._moved), None)


@dataclass(frozen=True, eq=False)
class _Alive:
    """The values that a mask leaves alive: how many of each tensor, and how chosen ones are told of, if they are: their
    positions alone, or with the signs."""

    mask: Mask
    sizes: Sizes
    positions: Coding | None
    signed: SignedCoder | None


def alive_sizes(table: TensorTable, mask: Mask) -> dict[str, int]:
    """The number of alive values of each tensor that is compressed, in table order."""
    return {
        spec.name: int(np.count_nonzero(mask[spec.name])) if spec.kind is TensorClass.PRUNABLE else spec.size
        for spec in table.of(*_COMPRESSED)
    }


def _read_mask(reader: Reader, table: TensorTable) -> dict[str, Places]:
    mask = {}
    for spec in table.of(TensorClass.PRUNABLE):
        with naming(f"tensor {spec.name}"):
            mask[spec.name] = Smallest().read(reader, spec.size, spec.size).reshape(spec.shape)
    return mask


def _read_alive(
    reader: Reader, codec: Codec, key: Key, alive: _Alive, recalled: Sequence[Recalled | BusyLines] | None
) -> dict[str, Vector]:
    negative: Places | None = None

    def choose(sizes: Sizes, most: int) -> Support:
        nonlocal negative
        with naming("positions"):
            if alive.signed is not None:
                chosen, negative = alive.signed.read(reader, most, recalled)
                return split(chosen, sizes)
            if alive.positions is None:
                raise ValueError(f"the codec {str(codec)!r} chooses positions that it does not code")
            return split(alive.positions.read(reader, sum(sizes.values()), most), sizes)

    counts, restore = codec.invert(alive.sizes, key, choose)
    with naming("values"):
        if negative is None:
            vectors = codec.values.read(reader, [*counts.values()])
        else:
            vectors = signed(read_magnitude(reader, negative.size), negative, [*counts.values()])
        with np.errstate(over="ignore", invalid="ignore"):
            delta = restore(dict(zip(counts, vectors, strict=True)))
        if not all(np.isfinite(vector).all() for vector in delta.values()):
            raise ProtocolError("a value is NaN or infinite")
    return delta


def _fingerprint(check: int, history: History) -> int:
    return history.check(check) & 0xFFFF


def _recalled(history: History, table: TensorTable) -> list[Recalled | BusyLines] | None:
    """The history of all tensors that are compressed; None without one."""
    return [history.recalled[spec.name] for spec in table.of(*_COMPRESSED)] if history.parts else None


def _moved(table: TensorTable, moved: Mask, codec: Codec) -> list[Places]:
    """The places that have moved, of no tensor if the codec does not ask."""
    return _places(table, moved, default=False) if codec.asks_what_moved else []


def _places(table: TensorTable, mask: Mask, *, default: bool) -> list[Places]:
    """The places of all tensors that are compressed; `default` at each of a tensor that `mask` does not name."""
    tensors = table.of(*_COMPRESSED)
    return [mask[spec.name] if spec.name in mask else np.full(spec.shape, default) for spec in tensors]


def _statistics(spec: TensorSpec, statistics: Weights) -> bytes:
    array = statistics[spec.name]
    if array.shape != spec.shape:
        raise ValueError(f"tensor {spec.name} is of shape {list(array.shape)}, not {list(spec.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"tensor {spec.name} holds NaN or infinity")
    return Fp32().encode([array.reshape(-1)])
