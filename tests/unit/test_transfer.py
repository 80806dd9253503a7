"""Receiving a content: any order, any duplicates, any nonsense, and in the end the very bytes that were meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.errors import ProtocolError
from fedprune.wire.messages import MAX_CONTENT_BYTES, Chunk, Content, Need, encode
from fedprune.wire.transfer import (
    CHUNK_BYTES,
    FIRST_PATIENCE_S,
    FIRST_WINDOW,
    MAX_PATIENCE_S,
    MAX_WINDOW,
    MIN_PATIENCE_S,
    UNDER_WAY_S,
    Receiving,
    chunk_count,
    chunk_of,
    content_of,
    pack_bitmap,
    unpack_bitmap,
)
from tests.samples import digest

BLOB = bytes(range(256)) * (CHUNK_BYTES // 64) + b"the rest"
CONTENT = content_of(BLOB)
COUNT = chunk_count(CONTENT.size, CHUNK_BYTES)
CHUNKS = [chunk_of(BLOB, CONTENT.digest, index, CHUNK_BYTES) for index in range(COUNT)]


LARGE = Content(digest=digest("large"), size=200 * CHUNK_BYTES)


def begin(content: Content = CONTENT) -> Receiving:
    return Receiving.begin(content, 0.0)[0]


def receive(receiving: Receiving, chunks: list[Chunk]) -> Receiving:
    for chunk in chunks:
        receiving, _ = receiving.add(chunk, 0.0)
    return receiving


def large_chunk(index: int) -> Chunk:
    return Chunk(digest=LARGE.digest, index=index, data=b"x" * CHUNK_BYTES)


def asked(need: Need | None) -> list[int]:
    return [] if need is None else list(unpack_bitmap(need.missing, chunk_count(LARGE.size, CHUNK_BYTES)))


def test_the_sample_has_several_chunks_and_the_last_is_shorter() -> None:
    assert COUNT > 2
    assert len({len(chunk.data) for chunk in CHUNKS[:-1]}) == 1
    assert len(CHUNKS[-1].data) < len(CHUNKS[0].data)


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_sizes_around_a_chunk(size: int) -> None:
    blob = b"x" * size
    content = content_of(blob)
    chunks = [chunk_of(blob, content.digest, index, CHUNK_BYTES) for index in range(chunk_count(size, CHUNK_BYTES))]

    assert chunk_count(size, CHUNK_BYTES) == -(-size // CHUNK_BYTES)
    assert receive(begin(content), chunks).assemble() == blob
    assert all(len(encode(chunk)) for chunk in chunks), "encode asserts that a chunk fits into a message"


@given(st.permutations(range(COUNT)), st.lists(st.integers(0, COUNT - 1), max_size=10))
def test_any_order_and_any_duplicates(order: list[int], again: list[int]) -> None:
    incoming = receive(begin(), [CHUNKS[index] for index in (*again, *order, *again)])

    assert incoming.is_complete
    assert incoming.assemble() == BLOB


@given(st.sets(st.integers(0, COUNT - 1)))
def test_what_is_asked_for_again_is_what_did_not_come(came: set[int]) -> None:
    incoming = receive(begin(), [CHUNKS[index] for index in came])

    again, need = incoming.ask_again(1.0, is_heard=False)
    assert list(unpack_bitmap(need.missing, COUNT)) == sorted(set(range(COUNT)) - came)[: again.window]
    assert incoming.is_complete == (len(came) == COUNT)


def test_a_window_is_asked_for_at_a_time_and_grows_while_everything_comes() -> None:
    receiving, need = Receiving.begin(LARGE, 0.0)
    assert asked(need) == list(range(FIRST_WINDOW))
    wanted, now, asks = set(asked(need)), 0.0, [len(asked(need))]

    for index in range(chunk_count(LARGE.size, CHUNK_BYTES)):
        assert index in wanted, "it came unasked"
        receiving, more = receiving.add(large_chunk(index), now)
        assert not wanted & set(asked(more)), "asked twice"
        wanted |= set(asked(more))
        assert len(receiving.asked) <= MAX_WINDOW
        now += 0.1
        if more is not None:
            asks.append(len(asked(more)))

    assert receiving.is_complete
    assert max(asks) > FIRST_WINDOW


@pytest.mark.parametrize("pace", [0.1, 1.0, 15.0])
def test_no_more_is_under_way_than_comes_in_a_while_so_that_a_cut_connection_loses_little(pace: float) -> None:
    receiving, most = begin(LARGE), 0
    for index in range(60):
        receiving, _ = receiving.add(large_chunk(index), (index + 1) * pace)
        most = max(most, len(receiving.asked))

    assert most <= max(FIRST_WINDOW, round(UNDER_WAY_S / pace))


def test_what_may_be_lost_is_asked_for_again_with_a_smaller_window() -> None:
    receiving = begin(LARGE)
    for index in range(60):
        receiving, _ = receiving.add(large_chunk(index), index / 10)
    before = receiving.window

    receiving, need = receiving.ask_again(100.0, is_heard=False)

    assert receiving.window == before // 2
    assert asked(need) == list(range(60, 60 + receiving.window))


@given(st.floats(0.01, 100.0), st.text(max_size=5))
def test_patience_follows_the_pace_that_was_seen_and_never_falls_short_of_it(pace: float, key: str) -> None:
    receiving, _ = Receiving.begin(LARGE, 0.0, key)
    assert FIRST_PATIENCE_S <= receiving.again_at <= 1.5 * FIRST_PATIENCE_S
    for index in range(8):
        receiving, _ = receiving.add(large_chunk(index), pace * (index + 1))

    patience = receiving.again_at - receiving.heard_at
    assert patience >= max(MIN_PATIENCE_S, 2 * pace)
    assert patience <= 1.5 * max(MIN_PATIENCE_S, 5 * pace)


def test_patience_doubles_with_every_ask_that_brings_nothing_up_to_its_bound() -> None:
    receiving = begin(LARGE)
    waits = []
    for attempt in range(12):
        waits.append(receiving.again_at - receiving.heard_at)
        receiving, _ = receiving.ask_again(float(attempt), is_heard=False)

    assert waits[3] > 4 * waits[0]
    assert max(waits) <= 1.5 * MAX_PATIENCE_S


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
    incoming = receive(begin(), CHUNKS[:1])

    with pytest.raises(ProtocolError, match="chunk"):
        incoming.add(wrong, 0.0)
    assert incoming.parts.keys() == {0}


def test_bytes_with_another_digest_are_not_handed_on() -> None:
    poisoned = Chunk(digest=CONTENT.digest, index=1, data=b"X" * CHUNK_BYTES)
    incoming = receive(begin(), [CHUNKS[0], poisoned, *CHUNKS[1:]])

    assert incoming.is_complete
    with pytest.raises(ProtocolError, match="another digest"):
        incoming.assemble()


def test_a_promise_of_gigabytes_costs_nothing_until_they_come() -> None:
    receiving, need = Receiving.begin(Content(digest=CONTENT.digest, size=MAX_CONTENT_BYTES), 0.0)

    assert len(encode(need)) < 4096
    assert receiving.parts == {}
