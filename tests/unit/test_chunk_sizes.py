"""Chunks become smaller where a broker takes no large ones, or a slow link is cut, and never by mere loss."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.errors import ProtocolError
from fedprune.wire.messages import MAX_CONTENT_BYTES, MAX_MESSAGE_BYTES, Chunk, Content, Need, encode
from fedprune.wire.transfer import (
    CHUNK_SIZES,
    ENVELOPE_BYTES,
    PROVEN_ATTEMPTS,
    UNDER_WAY_S,
    LinkTraits,
    Receiving,
    chunk_count,
    chunk_of,
    chunk_sizes,
    content_of,
    needed,
    smaller,
)
from tests.samples import chunks, digest

FULL, SMALL, SMALLEST = CHUNK_SIZES
BLOB = bytes(range(256)) * (3 * FULL // 256) + b"the rest"
CONTENT = content_of(BLOB)
PIECES = [chunk for size in CHUNK_SIZES for chunk in chunks(BLOB, size)]


def begin() -> Receiving:
    return Receiving.begin(CONTENT, 0.0)[0]


def test_each_size_is_a_whole_number_of_the_next_and_its_messages_fit() -> None:
    assert [larger % size for larger, size in itertools.pairwise(CHUNK_SIZES)] == [0, 0]
    for size in CHUNK_SIZES:
        message = Chunk(digest=CONTENT.digest, index=2**31 - 1, data=bytes(size), chunk_bytes=size)
        assert len(encode(message)) <= size + ENVELOPE_BYTES <= MAX_MESSAGE_BYTES


def test_what_does_not_come_though_the_other_side_answers_is_asked_for_in_smaller_chunks() -> None:
    receiving, sizes = begin(), []
    for attempt in range(4):
        receiving, need = receiving.ask_again(float(attempt), is_heard=True)
        sizes.append(need.chunk_bytes)
        assert next(needed(need, CONTENT)) == 0

    assert sizes == [SMALL, SMALLEST, SMALLEST, SMALLEST]
    assert receiving.unanswered == 4


def test_nobody_there_is_no_reason_for_smaller_chunks() -> None:
    receiving = begin()
    for attempt in range(10):
        receiving, need = receiving.ask_again(float(attempt), is_heard=False)
        assert need.chunk_bytes == FULL


def test_a_size_that_came_before_is_not_given_up_for_a_loss_or_two() -> None:
    receiving, _ = begin().add(chunk_of(BLOB, CONTENT.digest, 0, FULL), 1.0)
    sizes = []
    for attempt in range(PROVEN_ATTEMPTS):
        receiving, need = receiving.ask_again(2.0 + attempt, is_heard=True)
        sizes.append(need.chunk_bytes)

    assert sizes == [*[FULL] * (PROVEN_ATTEMPTS - 1), SMALL]
    receiving, _ = receiving.add(chunk_of(BLOB, CONTENT.digest, 8, SMALL), 9.0)
    assert len(receiving.parts) == 9, "what had come is still there"


def test_a_content_that_comes_in_one_small_message_anyhow_is_not_cut() -> None:
    receiving, _ = Receiving.begin(content_of(b"x" * SMALL), 0.0)
    assert receiving.ask_again(1.0, is_heard=True)[1].chunk_bytes == FULL
    assert receiving.add(chunks(b"x" * SMALL)[0], 1.0)[0].link.is_proven is False


@given(st.permutations(PIECES))
def test_chunks_of_all_sizes_in_any_order_make_the_content(pieces: list[Chunk]) -> None:
    receiving = begin()
    for piece in pieces:
        receiving, _ = receiving.add(piece, 0.0)
        if receiving.is_complete:
            break

    assert receiving.assemble() == BLOB


def test_a_sender_that_cuts_smaller_is_asked_so_from_then_on() -> None:
    receiving = begin()
    for index in range(24):
        assert receiving.asked or not index
        receiving, need = receiving.add(chunk_of(BLOB, CONTENT.digest, index, SMALL), float(index))
        assert need is None or need.chunk_bytes == SMALL

    assert receiving.link.chunk_bytes == SMALL
    assert Receiving.begin(CONTENT, 30.0, link=receiving.link)[1].chunk_bytes == SMALL


@pytest.mark.parametrize(("pace", "size"), [(UNDER_WAY_S / 2, FULL), (2 * UNDER_WAY_S, SMALL)])
def test_where_a_chunk_takes_long_a_cut_connection_makes_chunks_smaller(pace: float, size: int) -> None:
    receiving, _ = begin().add(chunk_of(BLOB, CONTENT.digest, 0, FULL), pace)
    receiving, need = receiving.ask_anew(10.0)

    assert need.chunk_bytes == size
    assert next(needed(need, CONTENT)) == FULL // size, "what came is not asked for again"


def test_a_cut_connection_halves_what_is_under_way() -> None:
    content = Content(digest=digest("large"), size=100 * FULL)
    receiving, _ = Receiving.begin(content, 0.0, link=LinkTraits(FULL, True, 0.01))
    for index in range(40):
        chunk = Chunk(digest=content.digest, index=index, data=bytes(FULL))
        receiving, _ = receiving.add(chunk, index * 0.01)
    before = receiving.window

    receiving, need = receiving.ask_anew(1.0)

    assert list(needed(need, content)) == list(range(40, 40 + before // 2))


@given(st.integers(1, MAX_CONTENT_BYTES))
def test_a_need_is_never_larger_than_the_chunks_that_it_asks_for(size: int) -> None:
    sizes = chunk_sizes(Content(digest=CONTENT.digest, size=size))
    assert sizes[0] == FULL
    assert all(-(-chunk_count(size, each) // 8) <= each for each in sizes)


def test_sizes_that_are_none_of_ours_are_refused() -> None:
    huge = Content(digest=CONTENT.digest, size=MAX_CONTENT_BYTES)
    assert SMALLEST not in chunk_sizes(huge)
    with pytest.raises(ProtocolError, match="not cut into"):
        needed(Need(digest=CONTENT.digest, missing=b"\1", chunk_bytes=1), CONTENT)
    with pytest.raises(ProtocolError, match="not cut into"):
        begin().add(Chunk(digest=CONTENT.digest, index=0, data=b"x", chunk_bytes=0), 0.0)
    receiving, _ = Receiving.begin(huge, 0.0, link=LinkTraits(SMALLEST))
    assert receiving.link.chunk_bytes == chunk_sizes(huge)[-1]
    with pytest.raises(ProtocolError, match="not cut into"):
        receiving.add(Chunk(digest=CONTENT.digest, index=0, data=bytes(SMALLEST), chunk_bytes=SMALLEST), 0.0)


def test_there_is_a_smallest_size() -> None:
    assert smaller(CHUNK_SIZES, FULL) == SMALL
    assert smaller(CHUNK_SIZES, SMALLEST) is None
