"""Partial sums as bytes: what a part of a round's updates adds up to, which merges with other parts to the same bits.

Workers of one gateway send it, and gateways below another. All little-endian:

=======  ==========================================================================================================
4 bytes  magic and version: ``FPS2``
8 bytes  the beginning of the digest of the weights that the updates are to (`weights_digest`)
uint32   how many bytes of tallies follow
tallies  of the agents' evaluations together (`fedprune.task.tallies`), empty where none was made
rest     the sums, see `Aggregate.encode`
=======  ==========================================================================================================

Nothing in it says how long the sums are: tensor table and mask do. What is read is checked to be sums that have room,
so that no part of a sum can overflow another. Which agents it is of, and their weights, are told beside it.
"""

from __future__ import annotations

from aggregator.merging import Aggregate
from aggregator.outliers import Norms, norms_of
from fedprune.codecs import Update
from fedprune.codecs.reader import Reader
from fedprune.errors import ProtocolError
from fedprune.model.tensors import Array, Mask, TensorClass, TensorTable, Weights
from fedprune.pruning.masks import take_kept

_MAGIC = b"FPS2"
DIGEST_BYTES = 8
"""Of the weights' digest."""


def encode_partial_sum(sums: Aggregate, weights_digest: bytes, tallies: bytes = b"") -> bytes:
    """Write sums of updates to the weights with this digest, of which the beginning is taken."""
    return b"".join([_MAGIC, weights_digest[:DIGEST_BYTES], len(tallies).to_bytes(4, "little"), tallies, sums.encode()])


def decode_partial_sum(
    blob: bytes, table: TensorTable, weights: Weights, known_mask: Mask | None, weights_digest: bytes
) -> Aggregate:
    """Read a partial sum.

    Args:
        blob: foreign bytes.
        table: the task's tensor table.
        weights: the global model that agents trained from, by tensor name.
        known_mask: the mask that all share; None where each update brings its agent's own.
        weights_digest: that of `weights`.

    Raises:
        ProtocolError: the bytes are no sums of updates to these weights.
    """
    reader = Reader(blob)
    reader.expect(_MAGIC)
    if bytes(reader.take(DIGEST_BYTES)) != weights_digest[:DIGEST_BYTES]:
        raise ProtocolError("the partial sum is of updates to another model")
    _take_tallies(reader)
    sums = Aggregate.read(reader, table, weights, known_mask)
    reader.finish()
    return sums


def tallies_of(blob: bytes) -> bytes:
    """The tallies in foreign bytes; none if these are no partial sum, which `decode_partial_sum` says."""
    reader = Reader(blob)
    try:
        reader.expect(_MAGIC)
        reader.take(DIGEST_BYTES)
        return _take_tallies(reader)
    except ProtocolError:
        return b""


def _take_tallies(reader: Reader) -> bytes:
    (size,) = reader.unpack("I")
    return bytes(reader.take(size))


def is_partial_sum(blob: bytes) -> bool:
    """True for bytes that begin as those of a partial sum do."""
    return blob.startswith(_MAGIC)


def part_norms(sums: Aggregate, weights: Weights, table: TensorTable) -> Norms:
    """The norms of what a part's updates come to: of their mean, which is no larger than the largest of them.

    Args:
        sums: of one update or more, of a mask that all share.
        weights: the global model that agents trained from, by tensor name.
        table: the task's tensor table.
    """
    merged = sums.result(weights)
    delta: dict[str, Array] = {}
    for spec in table.of(TensorClass.PRUNABLE, TensorClass.DENSE):
        moved = merged.weights[spec.name] - weights[spec.name]
        delta[spec.name] = take_kept(moved, merged.mask[spec.name]) if spec.name in merged.mask else moved
    statistics = {spec.name: merged.weights[spec.name] for spec in table.of(TensorClass.STATISTICS)}
    return norms_of(Update(delta, statistics, merged.mask), weights, table)
