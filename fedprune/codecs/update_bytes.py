"""The byte format of an update (uplink), little-endian throughout.

==========  ======================================================================================================
4 bytes     magic and version: ``FPU2``
uint16      the codec: the lower 16 bits of the CRC-32 of its description, which goes on, with ``context``, over where
            each tensor has moved, a bit for each weight
uint8       0 both sides know the mask, 1 it travels with the update
masks       where each prunable tensor is kept (`Smallest`), unless the mask is known
statistics  all values of statistics tensors in fp32
positions   which of the alive values of all tensors, one tensor after another, were chosen, if the codec codes that
values      the values that are sent, by the codec
votes       for pruned weights to come back (`fedprune.codecs.votes`), in rounds that ask for them
==========  ======================================================================================================

Alive are the values of prunable tensors that the mask keeps, row by row, and all values of dense tensors; integer and
frozen tensors do not travel. Tensors are in the order of the tensor table.

Nothing in a blob says how long it is: table, mask and codec do, and every byte must be accounted for. Each part has
exactly one form as bytes: readers refuse what writers would not have written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from fedprune.codecs.codec import Codec, Compressed
from fedprune.codecs.floats import Fp32
from fedprune.codecs.links import Key, Places, Sizes, Support, Vector, split
from fedprune.codecs.moved import NOTHING_MOVED
from fedprune.codecs.positions import Coding, Smallest
from fedprune.codecs.reader import Reader, naming
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
    parts = [_MAGIC, codec.fingerprint(places).to_bytes(2, "little"), bytes([not mask_is_known])]
    if not mask_is_known:
        parts += [Smallest().encode(mask[spec.name].reshape(-1)) for spec in table.of(TensorClass.PRUNABLE)]
    parts += [_statistics(spec, statistics) for spec in table.of(TensorClass.STATISTICS)]
    if codec.positions is not None:
        chosen = np.concatenate([*(sent.support[name] for name in names), np.empty(0, np.bool_)])
        parts.append(codec.positions(_places(table, mask, default=True), places).encode(chosen))
    return b"".join([*parts, codec.values.encode(vectors), encode_votes(votes)])


def decode_update(
    blob: bytes,
    table: TensorTable,
    known_mask: Mask | None,
    codec: Codec,
    key: Key,
    moved: Mask = NOTHING_MOVED,
    most_votes: Mapping[str, int] = NO_VOTES,
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

    Returns:
        The update, whose numbers are finite; `check_update` checks them further.

    Raises:
        ProtocolError: the bytes are not those of any update that `encode_update` writes so.
    """
    return UpdateDecoder(table, known_mask, codec, moved, most_votes).decode(blob, key)


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
    def _fingerprint(self) -> int:
        return self._codec.fingerprint(self._moved)

    @cached_property
    def _known(self) -> _Alive | None:
        return None if self._known_mask is None else self._alive(self._known_mask)

    def decode(self, blob: bytes, key: Key) -> Update:
        """Read one update; see `decode_update`."""
        reader, known = Reader(blob), self._known
        reader.expect(_MAGIC)
        fingerprint, carries_mask = reader.unpack("HB")
        if fingerprint != self._fingerprint:
            raise ProtocolError(f"the update is not of the codec {str(self._codec)!r}, or of another model")
        if carries_mask != (known is None):
            raise ProtocolError(f"the update's mask byte is {carries_mask}, not {int(known is None)}")
        alive = self._alive(_read_mask(reader, self._table)) if known is None else known
        statistics = {}
        for spec in self._table.of(TensorClass.STATISTICS):
            with naming(f"tensor {spec.name}"):
                (vector,) = Fp32().read(reader, [spec.size])
            statistics[spec.name] = vector.reshape(spec.shape)
        delta = _read_alive(reader, self._codec, key, alive)
        votes = read_votes(reader, alive.mask, self._most_votes)
        reader.finish()
        return Update(delta=delta, statistics=statistics, mask=alive.mask, votes=votes)

    def _alive(self, mask: Mask) -> _Alive:
        coding = self._codec.positions
        places = None if coding is None else coding(_places(self._table, mask, default=True), self._moved)
        return _Alive(mask, alive_sizes(self._table, mask), places)


@dataclass(frozen=True, eq=False)
class _Alive:
    """The values that a mask leaves alive: how many of each tensor, and how chosen ones are told of, if they are."""

    mask: Mask
    sizes: Sizes
    positions: Coding | None


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


def _read_alive(reader: Reader, codec: Codec, key: Key, alive: _Alive) -> dict[str, Vector]:
    def choose(sizes: Sizes, most: int) -> Support:
        if alive.positions is None:
            raise ValueError(f"the codec {str(codec)!r} chooses positions that it does not code")
        with naming("positions"):
            return split(alive.positions.read(reader, sum(sizes.values()), most), sizes)

    counts, restore = codec.invert(alive.sizes, key, choose)
    with naming("values"):
        vectors = codec.values.read(reader, list(counts.values()))
        with np.errstate(over="ignore", invalid="ignore"):
            delta = restore(dict(zip(counts, vectors, strict=True)))
        if not all(np.isfinite(vector).all() for vector in delta.values()):
            raise ProtocolError("a value is NaN or infinite")
    return delta


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
