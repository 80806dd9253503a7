"""Partial sums: they come back from bytes, merge to the same bits in any grouping, and what is none is refused."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.merging import MOST_UPDATES, Aggregate
from aggregator.partial_sum import decode_partial_sum, encode_partial_sum
from fedprune.codecs import Update
from fedprune.errors import ProtocolError
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Mask, TensorClass, TensorSpec, TensorTable, Weights

TABLE = TensorTable(
    (
        TensorSpec("a/kernel", (3, 4), "float32", TensorClass.PRUNABLE, "a"),
        TensorSpec("a/bias", (4,), "float32", TensorClass.DENSE, "a"),
        TensorSpec("b/mean", (4,), "float32", TensorClass.STATISTICS, "b"),
        TensorSpec("b/variance", (4,), "float32", TensorClass.STATISTICS, "b"),
    )
)
MASK: Mask = {"a/kernel": np.arange(12).reshape(3, 4) % 3 == 0}
DIGEST = bytes(range(32))
GOLDEN = {
    True: "3ce8dd3144ac72ac",
    False: "f0595d095ce8aac0",
}
"""The beginning of the SHA-256 of the bytes, by whether the mask is shared."""


def base() -> Weights:
    drawn = Keyed(1, "base")
    return {spec.name: drawn.uniform(spec.size, 0.1, 1.0).astype(np.float32).reshape(spec.shape) for spec in TABLE}


def update(number: int, scale: float = 1.0) -> Update:
    drawn = Keyed(number, "update")
    return Update(
        delta={
            "a/kernel": (scale * drawn.uniform(4, -1.0, 1.0)).astype(np.float32),
            "a/bias": (scale * drawn.uniform(4, -1.0, 1.0)).astype(np.float32),
        },
        statistics={
            "b/mean": drawn.uniform(4, 0.0, 1.0).astype(np.float32),
            "b/variance": drawn.uniform(4, 0.0, 1.0).astype(np.float32),
        },
        mask=MASK,
    )


def sums(*updates: Update, shared: bool = True) -> Aggregate:
    aggregate = Aggregate(TABLE, base(), MASK if shared else None)
    for number, each in enumerate(updates):
        aggregate.add(each, examples=100 + number)
    return aggregate


def read(blob: bytes, *, shared: bool = True, digest: bytes = DIGEST) -> Aggregate:
    return decode_partial_sum(blob, TABLE, base(), MASK if shared else None, digest)


@pytest.mark.parametrize("shared", [True, False])
def test_the_bytes_of_a_partial_sum_are_the_same_on_every_machine(shared: bool) -> None:
    blob = encode_partial_sum(sums(update(1), update(2, 2.0**35), update(3), shared=shared), DIGEST)

    assert hashlib.sha256(blob).hexdigest()[:16] == GOLDEN[shared]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("scale", [1.0, 2.0**39], ids=["in one number", "in digits"])
def test_sums_in_parts_are_bit_for_bit_those_of_all_updates_together(shared: bool, scale: float) -> None:
    updates = [update(1), update(2, scale), update(3), update(4, scale)]
    whole = Aggregate(TABLE, base(), MASK if shared else None)
    for each in updates:
        whole.add(each, examples=2**30)

    root = sums(shared=shared)
    for part in (updates[:1], updates[1:3], updates[3:]):
        aggregate = Aggregate(TABLE, base(), MASK if shared else None)
        for each in part:
            aggregate.add(each, examples=2**30)
        root.merge(read(encode_partial_sum(aggregate, DIGEST), shared=shared))

    assert encode_partial_sum(root, DIGEST) == encode_partial_sum(whole, DIGEST)
    for name, array in whole.result(base()).weights.items():
        np.testing.assert_array_equal(root.result(base()).weights[name], array)


def test_an_update_of_a_part_is_taken_out_of_the_whole_exactly() -> None:
    root = sums(update(1))
    root.merge(read(encode_partial_sum(sums(update(2, 2.0**39)), DIGEST)))

    root.remove(update(2, 2.0**39), examples=100)

    assert encode_partial_sum(root, DIGEST) == encode_partial_sum(sums(update(1)), DIGEST)


@pytest.mark.parametrize("scale", [1.0, 2.0**40])
def test_sums_that_so_few_examples_cannot_come_to_are_out_of_bounds(scale: float) -> None:
    blob = encode_partial_sum(sums(update(1, scale), update(2, scale)), DIGEST)
    read(blob).check_bounds()

    aggregate = Aggregate(TABLE, base(), MASK)
    aggregate.add(update(1, 2.0**40), examples=2**30)
    blob = encode_partial_sum(aggregate, DIGEST)
    claimed = blob[:20] + (2**20).to_bytes(8, "little") + blob[28:]  # a thousandth of the examples
    with pytest.raises(ProtocolError, match="beyond what its 1048576 examples can come to"):
        read(claimed).check_bounds()


def test_a_part_that_says_it_is_of_more_updates_than_any_leaves_those_of_others_their_room() -> None:
    """A worker's sums of both could not be read any more."""
    blob = encode_partial_sum(Aggregate(TABLE, base(), MASK), DIGEST)
    most, more = (blob[:16] + struct.pack("<IQ", count, count) + blob[28:] for count in (2**18, MOST_UPDATES))
    part = read(most)
    part.check_bounds()
    root = sums(update(1))
    root.merge(part)
    assert read(encode_partial_sum(root, DIGEST)).examples == root.examples

    with pytest.raises(ProtocolError, match=f"it is of {MOST_UPDATES} updates, and a part of {2**18} at most"):
        read(more).check_bounds()


def test_a_partial_sum_of_updates_to_another_model_is_refused() -> None:
    with pytest.raises(ProtocolError, match="another model"):
        read(encode_partial_sum(sums(update(1)), bytes(32)))


@settings(max_examples=200)
@given(at=st.integers(0, 10_000), changed=st.binary(min_size=1, max_size=8), cut=st.integers(0, 3))
def test_a_damaged_partial_sum_is_refused_or_has_room_and_one_form(at: int, changed: bytes, cut: int) -> None:
    blob = encode_partial_sum(sums(update(1), update(2, 2.0**39)), DIGEST)
    at %= len(blob)
    damaged = blob[:at] + changed + blob[at + len(changed) : len(blob) - cut]
    try:
        found = read(damaged)
    except ProtocolError:
        return
    assert encode_partial_sum(found, DIGEST) == damaged
    found.merge(sums(update(1)))
    found.result(base())
