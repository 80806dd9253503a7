"""Serving contents: what leaves when, to whom, and what a peer that asks too much gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.errors import ProtocolError
from fedprune.wire.messages import Content, Need
from fedprune.wire.serving import (
    BURST_CHUNKS,
    FOLLOWING_S,
    FREE_COPIES,
    GATHER_S,
    LONGEST_SLOW_S,
    ON_ITS_WAY_S,
    REFILL_S,
    STALLED_S,
    SendChunk,
    Serving,
)
from fedprune.wire.transfer import CHUNK_BYTES, CHUNK_SIZES, ENVELOPE_BYTES, MAX_WINDOW, chunk_count, need_of
from tests.samples import digest

SMALL = Content(digest=digest("small"), size=10)
LARGE = Content(digest=digest("large"), size=100 * CHUNK_BYTES)
BOTH = Serving().offer(SMALL).offer(LARGE)


def need(content: Content, *indexes: int, chunk_bytes: int = CHUNK_BYTES) -> Need:
    return need_of(content, indexes or range(chunk_count(content.size, chunk_bytes)), chunk_bytes)


def again(content: Content, *indexes: int) -> Need:
    return need_of(content, indexes, CHUNK_BYTES, even_if_sent=True)


def sent(chunks: tuple[SendChunk, ...]) -> set[tuple[int, str | None]]:
    return {(chunk.index, chunk.peer) for chunk in chunks}


def test_what_one_peer_lacks_goes_to_it_and_what_several_lack_is_broadcast_once() -> None:
    serving = BOTH.ask("a", need(LARGE, 0, 1), 0.0, expected=9).ask("b", need(LARGE, 1, 2), 0.05, expected=9)

    assert serving.due_at == GATHER_S
    assert serving.serve(0.05) == (serving, ())
    serving, chunks = serving.serve(GATHER_S)
    assert sent(chunks) == {(0, "a"), (1, None), (2, "b")}
    assert serving.due_at is None


def test_nobody_is_waited_for_once_all_that_are_expected_have_asked() -> None:
    serving = BOTH.ask("a", need(SMALL), 0.0, expected=2)
    assert not serving.serve(0.0)[1]

    assert sent(serving.ask("b", need(SMALL), 0.01, expected=2).serve(0.01)[1]) == {(0, None)}


def test_a_burst_waits_for_the_one_before_to_leave_the_link() -> None:
    serving, first = BOTH.ask("a", need(LARGE, *range(40)), 0.0, expected=1).serve(0.0)
    assert len(first) == BURST_CHUNKS

    assert serving.serve(1.0) == (serving, ())
    serving, second = serving.drained().serve(1.0)
    assert sent(second) == {(index, "a") for index in range(BURST_CHUNKS, 2 * BURST_CHUNKS)}


def test_a_burst_that_the_link_lost_word_of_holds_nothing_up_for_ever() -> None:
    serving, _ = BOTH.ask("a", need(LARGE, *range(40)), 0.0, expected=1).serve(0.0)

    assert serving.due_at == STALLED_S
    assert serving.serve(STALLED_S)[1]


def test_one_need_asks_for_a_window_at_most() -> None:
    serving = BOTH.ask("a", need(LARGE), 0.0, expected=1)

    assert len(serving.requests) == MAX_WINDOW


def test_a_bitmap_of_another_size_is_refused_and_an_empty_one_asks_nothing() -> None:
    with pytest.raises(ProtocolError, match="bitmap"):
        BOTH.ask("a", Need(digest=LARGE.digest, missing=b"\1"), 0.0, expected=1)
    assert BOTH.ask("a", Need(digest=SMALL.digest, missing=b"\0"), 0.0, expected=1) == BOTH


def copies_in(seconds: float, serving: Serving, *, every: float = 0.2) -> int:
    """How often a peer that asks for a small content all the time is sent it."""
    copies, now = 0, 0.0
    while now < seconds:
        serving = serving.ask("greedy", need(SMALL), now, expected=1)
        serving, chunks = serving.drained().serve(now)
        copies += len(chunks)
        now += every
    return copies


def test_a_peer_that_asks_over_and_over_is_slowed_and_then_set_aside() -> None:
    assert copies_in(1.0, BOTH) <= FREE_COPIES + 1
    assert copies_in(3600.0, BOTH, every=5.0) <= FREE_COPIES + 2 + 3600.0 / REFILL_S
    assert copies_in(3600.0, BOTH, every=5.0) > FREE_COPIES, "who lost everything three times is not given up at once"


def test_credit_grows_back_so_that_a_bad_link_is_not_given_up() -> None:
    serving, copies = BOTH, 0
    for hour in range(20):
        serving = serving.ask("unlucky", need(SMALL), hour * REFILL_S, expected=1)
        serving, chunks = serving.drained().serve(hour * REFILL_S)
        copies += len(chunks)

    assert copies == 20


def test_one_peers_greed_costs_another_nothing() -> None:
    serving = BOTH
    for _ in range(20):
        serving, _ = serving.ask("greedy", need(SMALL), 0.0, expected=1).serve(0.0)
        serving = serving.drained()

    assert sent(serving.ask("modest", need(SMALL), 0.0, expected=1).serve(0.0)[1]) == {(0, "modest")}


def test_what_is_withdrawn_is_neither_sent_nor_remembered() -> None:
    serving = BOTH.ask("a", need(LARGE, 3), 0.0, expected=9).withdraw(LARGE.digest)

    assert (serving.due_at, len(serving.requests), len(serving.accounts)) == (None, 0, 0)
    with pytest.raises(KeyError):
        serving.ask("a", need(LARGE), 0.0, expected=1)


_ASKS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sets(st.integers(0, 99), min_size=1), st.floats(0.0, 2.0)), max_size=20
)


@given(_ASKS)
def test_whatever_is_asked_within_the_credit_is_sent_and_memory_stays_bounded(
    asks: list[tuple[str, set[int], float]],
) -> None:
    serving, now = BOTH, 0.0
    owed: set[int] = set()
    for peer, indexes, pause in asks:
        now += pause
        account = serving.accounts.get(LARGE.digest, {}).get(peer)  # type: ignore[call-overload]
        if account is None or now >= account.slowed_until:
            owed |= set(sorted(indexes)[:MAX_WINDOW])
        serving = serving.ask(peer, again(LARGE, *indexes), now, expected=4)
        serving, chunks = serving.serve(now)
        assert len(chunks) <= BURST_CHUNKS
        owed -= {chunk.index for chunk in chunks}
    while serving.due_at is not None:
        now = max(now, serving.due_at)
        serving, chunks = serving.serve(now)
        owed -= {chunk.index for chunk in chunks}
        serving = serving.drained()

    assert not owed
    assert not len(serving.requests)
    assert not len(serving.askers)


def test_the_longest_wait_is_bounded() -> None:
    serving = BOTH
    for step in range(50):
        serving = serving.ask("greedy", need(SMALL), step * 2 * LONGEST_SLOW_S, expected=1)

    account = serving.accounts[SMALL.digest]["greedy"]
    assert account.slowed_until - 49 * 2 * LONGEST_SLOW_S <= LONGEST_SLOW_S


def test_a_chunk_that_was_broadcast_is_so_again_only_for_more_than_half_of_those_that_follow() -> None:
    serving = BOTH
    for peer in "abcde":
        serving = serving.ask(peer, need(LARGE, 0), 0.0, expected=9)
    serving, chunks = serving.serve(GATHER_S)
    assert sent(chunks) == {(0, None)}

    for peer in "ab":
        serving = serving.ask(peer, again(LARGE, 0), 1.0, expected=9)
    serving, chunks = serving.drained().serve(1.0 + GATHER_S)
    assert sent(chunks) == {(0, "a"), (0, "b")}

    for peer in "cde":
        serving = serving.ask(peer, again(LARGE, 0), 2.0, expected=9)
    assert sent(serving.drained().serve(2.0 + GATHER_S)[1]) == {(0, None)}


def test_what_was_just_broadcast_is_on_its_way_to_all_that_follow_and_comes_again_only_if_they_say_so() -> None:
    serving = BOTH
    for peer in "abc":
        serving = serving.ask(peer, need(LARGE, 0), 0.0, expected=9)
    for peer in "ab":
        serving = serving.ask(peer, need(LARGE, 1), 0.0, expected=9)
    serving, chunks = serving.serve(GATHER_S)
    assert sent(chunks) == {(0, None), (1, None)}

    assert not serving.ask("c", need(LARGE, 1), 1.0, expected=9).requests
    for late in (
        serving.ask("c", again(LARGE, 1), 1.0, expected=9),
        serving.ask("new", need(LARGE, 1), 1.0, expected=9),
        serving.ask("c", need(LARGE, 1), GATHER_S + ON_ITS_WAY_S, expected=9),
    ):
        assert len(late.requests) == 1


def test_who_has_not_asked_for_a_while_follows_no_longer() -> None:
    serving = BOTH
    for peer in "abcde":
        serving, _ = serving.ask(peer, need(LARGE, 0), 0.0, expected=1).drained().serve(0.0)
    later = 2 * FOLLOWING_S
    for peer in "ab":
        serving = serving.ask(peer, again(LARGE, 0), later, expected=9)

    assert sent(serving.drained().serve(later + GATHER_S)[1]) == {(0, None)}


def test_chunks_for_many_peers_one_by_one_leave_in_bursts_too() -> None:
    serving, peers = BOTH, [f"peer-{index}" for index in range(100)]
    for peer in peers:
        serving = serving.ask(peer, need(LARGE, 0), 0.0, expected=1000)
    serving, _ = serving.serve(GATHER_S)
    for peer in peers[:40]:
        serving = serving.ask(peer, again(LARGE, 0), 1.0, expected=1000)
    served: list[str | None] = []
    while serving.requests:
        serving, chunks = serving.drained().serve(2.0)
        assert len(chunks) <= BURST_CHUNKS
        served += (chunk.peer for chunk in chunks)

    assert sorted(str(peer) for peer in served) == sorted(peers[:40])


def hang_up(serving: Serving, now: float) -> tuple[Serving, str]:
    """A peer asks, and the connection ends while the burst is under way."""
    serving, chunks = serving.ask("a", need(LARGE, 0), now, expected=1).serve(now)
    assert chunks
    return serving.reconnected()


def test_a_broker_that_hangs_up_on_chunk_after_chunk_is_sent_smaller_ones() -> None:
    serving, said = hang_up(BOTH, 0.0)
    assert said == ""
    serving, said = hang_up(serving, 100.0)
    assert f"hung up 2 times in a row on chunks of {CHUNK_BYTES} bytes" in said

    _, chunks = serving.ask("a", need(LARGE, 3), 200.0, expected=1).serve(200.0)

    assert {(chunk.chunk_bytes, chunk.index) for chunk in chunks} == {
        (CHUNK_SIZES[1], index) for index in range(24, 32)
    }


def test_what_the_broker_took_in_between_shows_that_the_chunks_are_not_too_large() -> None:
    serving, _ = hang_up(BOTH, 0.0)
    serving, _ = serving.ask("a", need(LARGE, 0), 100.0, expected=1).serve(100.0)
    serving, said = hang_up(serving.drained(), 200.0)

    assert (said, serving.chunk_bytes) == ("", CHUNK_BYTES)
    assert serving.reconnected() == (serving, ""), "nothing was under way"


def test_below_the_smallest_chunks_it_is_said_what_a_broker_must_allow() -> None:
    serving, lines = BOTH, []
    for step in range(12):
        serving, said = hang_up(serving, step * LONGEST_SLOW_S)
        lines.append(said)

    assert serving.chunk_bytes == CHUNK_SIZES[-1]
    assert f"it must take messages of {CHUNK_SIZES[-1] + ENVELOPE_BYTES} bytes" in lines[-1]


def test_who_asks_for_smaller_chunks_gets_them() -> None:
    asked = need(LARGE, 5, chunk_bytes=CHUNK_SIZES[2])
    _, chunks = BOTH.ask("a", asked, 0.0, expected=1).serve(0.0)

    assert chunks == (SendChunk(LARGE, 5, CHUNK_SIZES[2], "a"),)
