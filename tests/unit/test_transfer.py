"""Content transfer: any order, any duplicates, any nonsense, and in the end the very bytes that were meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.errors import ProtocolError
from fedprune.wire.messages import MAX_CONTENT_BYTES, Chunk, Content, encode
from fedprune.wire.transfer import (
    CHUNK_BYTES,
    Incoming,
    all_missing,
    chunk_count,
    chunk_of,
    content_of,
    pack_bitmap,
    unpack_bitmap,
)
from tests.samples import digest

BLOB = bytes(range(256)) * (CHUNK_BYTES // 64) + b"the rest"
CONTENT = content_of(BLOB)
COUNT = chunk_count(CONTENT.size)
CHUNKS = [chunk_of(BLOB, CONTENT.digest, index) for index in range(COUNT)]


def receive(incoming: Incoming, chunks: list[Chunk]) -> Incoming:
    for chunk in chunks:
        incoming = incoming.add(chunk)
    return incoming


def test_the_sample_has_several_chunks_and_the_last_is_shorter() -> None:
    assert COUNT > 2
    assert len({len(chunk.data) for chunk in CHUNKS[:-1]}) == 1
    assert len(CHUNKS[-1].data) < len(CHUNKS[0].data)


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_sizes_around_a_chunk(size: int) -> None:
    blob = b"x" * size
    content = content_of(blob)
    chunks = [chunk_of(blob, content.digest, index) for index in range(chunk_count(size))]

    assert chunk_count(size) == -(-size // CHUNK_BYTES)
    assert receive(Incoming(content), chunks).assemble() == blob
    assert all(len(encode(chunk)) for chunk in chunks), "encode asserts that a chunk fits into a message"


@given(st.permutations(range(COUNT)), st.lists(st.integers(0, COUNT - 1), max_size=10))
def test_any_order_and_any_duplicates(order: list[int], again: list[int]) -> None:
    incoming = receive(Incoming(CONTENT), [CHUNKS[index] for index in (*again, *order, *again)])

    assert incoming.is_complete
    assert incoming.assemble() == BLOB
    assert not any(unpack_bitmap(incoming.missing, COUNT))


@given(st.sets(st.integers(0, COUNT - 1)))
def test_what_is_missing_is_what_did_not_come(came: set[int]) -> None:
    incoming = receive(Incoming(CONTENT), [CHUNKS[index] for index in came])

    assert set(unpack_bitmap(incoming.missing, COUNT)) == set(range(COUNT)) - came
    assert incoming.is_complete == (len(came) == COUNT)


@given(st.integers(1, 200).flatmap(lambda count: st.tuples(st.just(count), st.frozensets(st.integers(0, count - 1)))))
def test_bitmaps_come_back(case: tuple[int, frozenset[int]]) -> None:
    count, indexes = case

    assert len(pack_bitmap(indexes, count)) == -(-count // 8)
    assert frozenset(unpack_bitmap(pack_bitmap(indexes, count), count)) == indexes


def test_bit_zero_is_the_lowest_of_the_first_byte() -> None:
    assert pack_bitmap(frozenset({0, 9}), 10) == b"\x01\x02"


@given(st.integers(1, 100), st.binary(max_size=20))
def test_hostile_bitmaps_name_only_chunks_that_are_there(count: int, bitmap: bytes) -> None:
    if len(bitmap) != -(-count // 8):
        with pytest.raises(ProtocolError, match="bitmap"):
            unpack_bitmap(bitmap, count)
    else:
        assert all(0 <= index < count for index in unpack_bitmap(bitmap, count))


def test_everything_can_be_asked_for_in_one_message_however_large() -> None:
    count = chunk_count(MAX_CONTENT_BYTES)
    assert sum(1 for _ in unpack_bitmap(all_missing(MAX_CONTENT_BYTES), count)) == count


@pytest.mark.parametrize(
    "wrong",
    [
        Chunk(digest=digest("another"), index=0, data=CHUNKS[0].data),
        Chunk(digest=CONTENT.digest, index=COUNT, data=CHUNKS[0].data),
        Chunk(digest=CONTENT.digest, index=2**31 - 1, data=b""),
        Chunk(digest=CONTENT.digest, index=0, data=CHUNKS[0].data[:-1]),
        Chunk(digest=CONTENT.digest, index=0, data=CHUNKS[0].data + b"x"),
        Chunk(digest=CONTENT.digest, index=COUNT - 1, data=CHUNKS[0].data),
        Chunk(digest=CONTENT.digest, index=1, data=b""),
    ],
)
def test_what_cannot_be_a_chunk_is_refused(wrong: Chunk) -> None:
    incoming = receive(Incoming(CONTENT), CHUNKS[:1])

    with pytest.raises(ProtocolError, match="chunk"):
        incoming.add(wrong)
    assert incoming.parts.keys() == {0}


def test_bytes_with_another_digest_are_not_handed_on() -> None:
    poisoned = Chunk(digest=CONTENT.digest, index=1, data=b"X" * CHUNK_BYTES)
    incoming = receive(Incoming(CONTENT), [CHUNKS[0], poisoned, *CHUNKS[1:]])

    assert incoming.is_complete
    with pytest.raises(ProtocolError, match="another digest"):
        incoming.assemble()


def test_a_promise_of_gigabytes_costs_nothing_until_they_come() -> None:
    incoming = Incoming(Content(digest=CONTENT.digest, size=MAX_CONTENT_BYTES))

    assert len(incoming.missing) == -(-chunk_count(MAX_CONTENT_BYTES) // 8)
    assert incoming.parts == {}
