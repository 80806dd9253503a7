"""The byte formats that lead from one version of a model to a later one (downlink), little-endian throughout.

A *delta* leads to the next version:

==========  ======================================================================================================
4 bytes     magic and version: ``FPD1``
uint32      CRC-32 of the next version's mask: the prunable tensors' bits in table order, as `bitmap` writes each
rest        as an update (``FPU2``) whose mask all sides know, by the model's chain
==========  ======================================================================================================

The mask does not travel. All sides compute that of the next version from the one before; the CRC is there to notice
who has computed another one. With ``history`` the update is coded by what the last deltas sent
(`fedprune.codecs.model_history`). A *replay* leads over several versions: ``FPR1``, then for each delta, the oldest
first, its length as uint32 and its bytes.

The model that counts is the decoded one. What a delta loses stays in the sender's own weights, and so is sent later.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedprune.codecs.codec import Codec
from fedprune.codecs.links import Key
from fedprune.codecs.model_bytes import Values, decode_model, encode_model
from fedprune.codecs.model_history import NOTHING_SENT, history_of, sent_with
from fedprune.codecs.moved import NOTHING_MOVED
from fedprune.codecs.reader import Reader, naming, pack_bits
from fedprune.codecs.update import check_update
from fedprune.codecs.update_bytes import decode_update, encode_update
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Array, Mask, TensorClass, TensorTable, Weights
from fedprune.pruning.masks import put_kept, take_kept

_MAGIC, _REPLAY = b"FPD1", b"FPR1"
_MOVING = (TensorClass.PRUNABLE, TensorClass.DENSE)
_GATEWAY = "/gateway"
"""What stands for an agent in the keys of deltas; no agent's name holds a slash."""


class Reached(NamedTuple):
    """The version that a delta leads to: the weights, as `decode_model` returns them (frozen tensors are not among
    them), what its last deltas sent, if its codec goes by that, and the bytes of the weights."""

    weights: dict[str, Array]
    sent: bytes
    model: bytes


def delta_key(seed: int, version: int) -> Key:
    """The key of the delta that leads to `version`: all that its chain draws follows from it, on all sides."""
    return Key(seed, version, _GATEWAY)


def encode_delta(
    wanted: Weights,
    base: Weights,
    mask: Mask,
    table: TensorTable,
    codec: Codec,
    key: Key,
    moved: Mask = NOTHING_MOVED,
    sent: bytes = NOTHING_SENT,
) -> bytes:
    """Write what leads from `base` towards `wanted`.

    Args:
        wanted: the sender's own weights, by tensor name in table order, finite.
        base: the decoded weights of the version before.
        mask: where the next version keeps prunable weights; both sides know it.
        table: the task's tensor table.
        codec: the chain, without error feedback.
        key: `delta_key` of the next version.
        moved: what `moved_since` says of `base`, if the codec asks.
        sent: what the last deltas to `base` sent, if the codec remembers.

    Raises:
        ProtocolError: a difference is too large for float32.
    """
    moves = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for spec in table.of(*_MOVING):
            kept = mask.get(spec.name, np.ones(spec.shape, np.bool_))
            moves[spec.name] = take_kept(wanted[spec.name], kept) - take_kept(base[spec.name], kept)
            if not np.isfinite(moves[spec.name]).all():
                raise ProtocolError(f"tensor {spec.name}: it moves too far for a delta")
    statistics = {spec.name: wanted[spec.name] for spec in table.of(TensorClass.STATISTICS)}
    made, history = codec.compress(moves, codec.init(table), key), history_of(sent, table)
    update = encode_update(made, statistics, mask, table, codec, mask_is_known=True, moved=moved, history=history)
    return _MAGIC + _mask_check(mask, table).to_bytes(4, "little") + update


def apply_delta(
    base: Weights,
    blob: bytes,
    mask: Mask,
    table: TensorTable,
    codec: Codec,
    key: Key,
    values: Values,
    moved: Mask = NOTHING_MOVED,
    sent: bytes = NOTHING_SENT,
) -> Reached:
    """Decode the next version of a model.

    Args:
        base: the decoded weights of the version before.
        blob: foreign bytes.
        mask: the next version's mask, as this side computed it.
        table: the task's tensor table.
        codec: the chain that the delta must be of.
        key: `delta_key` of the next version.
        values: the value scheme that each version is rounded to.
        moved: what `moved_since` says of `base`, if the codec asks.
        sent: what the last deltas to `base` sent, if the codec remembers.

    Raises:
        ProtocolError: the bytes are not those of any such delta, it is of another mask, or its numbers are too large.

    Example:
        >>> from fedprune.codecs.notation import parse_codec
        >>> from fedprune.model.tensors import TensorSpec
        >>> table = TensorTable((TensorSpec("kernel", (4,), "float32", TensorClass.PRUNABLE, "dense"),))
        >>> codec, key = parse_codec("mask | topk(0.5) | ternary | rice"), delta_key(1, 1)
        >>> wanted, base = {"kernel": np.float32([2, 8, 0, 1])}, {"kernel": np.float32([1, 2, 0, 1])}
        >>> mask = {"kernel": np.array([True, True, False, True])}
        >>> delta = encode_delta(wanted, base, mask, table, codec, key)
        >>> apply_delta(base, delta, mask, table, codec, key, Values.FP16).weights["kernel"].tolist()
        [4.5, 5.5, 0.0, 1.0]
    """
    reader = Reader(blob)
    reader.expect(_MAGIC)
    (check,) = reader.unpack("I")
    if check != _mask_check(mask, table):
        raise ProtocolError("the delta is of another mask than this side computed")
    history = history_of(sent, table)
    update = decode_update(bytes(reader.peek(len(blob))), table, mask, codec, key, moved, remembered=history)
    check_update(update, table)
    following = sent_with(sent, update.delta, mask, table) if codec.remembers else NOTHING_SENT
    weights, moves = {**base, **update.statistics}, dict(update.delta)
    del update  # a device has no room for whole moves beside whole weights
    with np.errstate(over="ignore"):
        for spec in table.of(*_MOVING):
            kept = mask.get(spec.name, np.ones(spec.shape, np.bool_))
            reached = take_kept(base[spec.name], kept) + moves.pop(spec.name)
            if not np.isfinite(reached).all():
                raise ProtocolError(f"tensor {spec.name}: a weight overflows")
            weights[spec.name] = put_kept(reached, kept)
    model = encode_model(weights, mask, table, values)
    del weights
    return Reached(decode_model(model, table)[0], following, model)


def encode_replay(deltas: Sequence[bytes]) -> bytes:
    """Join deltas that lead from version to version, the oldest first."""
    return _REPLAY + b"".join(len(delta).to_bytes(4, "little") + delta for delta in deltas)


def decode_replay(blob: bytes, count: int) -> list[bytes]:
    """Part a replay of `count` deltas. Raises `ProtocolError` if it is none.

    Example:
        >>> decode_replay(encode_replay([b"older", b"newer"]), 2)
        [b'older', b'newer']
    """
    reader = Reader(blob)
    reader.expect(_REPLAY)
    deltas = []
    for index in range(count):
        with naming(f"delta {index + 1} of {count}"):
            (length,) = reader.unpack("I")
            deltas.append(bytes(reader.take(length)))
    reader.finish()
    return deltas


def _mask_check(mask: Mask, table: TensorTable) -> int:
    check = 0
    for spec in table.of(TensorClass.PRUNABLE):
        check = zlib.crc32(pack_bits(mask[spec.name].reshape(-1)), check)
    return check
