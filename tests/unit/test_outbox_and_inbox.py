"""A link's two queues: in order, bounded, and empty when they say so."""

from __future__ import annotations

import queue
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fedprune.wire.inbox import Inbox
from fedprune.wire.link import Delivery, LinkUp
from fedprune.wire.outbox import MOST_SENT, Outbox, Publication, Subscription, Unsubscription


def publication(size: int) -> Publication:
    return Publication("t", bytes(size), retain=False)


COST = publication(1000).cost


def opened(limit: int) -> Outbox:
    outbox = Outbox(limit)
    outbox.open()
    return outbox


def test_commands_are_taken_in_the_order_in_which_they_came() -> None:
    outbox = opened(10**6)
    commands = [Subscription("a"), publication(1), Unsubscription("a"), publication(2)]

    assert all(outbox.put(command) for command in commands)
    assert [outbox.take() for _ in range(5)] == [*commands, None]


def test_a_publication_counts_until_it_is_acknowledged() -> None:
    outbox = opened(2 * COST)
    assert [outbox.put(publication(1000)) for _ in range(3)] == [True, True, False]
    assert outbox.put(Subscription("a")), "the little that is never dropped"
    for identifier in (1, 2):
        taken = outbox.take()
        assert isinstance(taken, Publication)
        outbox.sent(taken, identifier)
    assert not outbox.put(publication(0))
    assert not outbox.acknowledged(1)
    assert outbox.put(publication(1000))
    assert not outbox.acknowledged(2)


def test_a_broker_that_acknowledges_nothing_is_handed_so_many_publications_and_one_more_for_each_it_acknowledges() -> (
    None
):
    outbox = opened(10**6)
    for _ in range(MOST_SENT + 2):
        outbox.put(publication(1))
    for identifier in range(MOST_SENT):
        taken = outbox.take()
        assert isinstance(taken, Publication)
        outbox.sent(taken, identifier)

    assert outbox.take() is None
    outbox.acknowledged(0)
    assert outbox.take() is not None


def test_the_largest_that_the_broker_has_not_acknowledged_is_known_until_the_link_is_closed() -> None:
    outbox = opened(10**6)
    assert outbox.unacknowledged is None
    for identifier, size in enumerate((10, 30, 20)):
        outbox.put(publication(size))
        taken = outbox.take()
        assert isinstance(taken, Publication)
        outbox.sent(taken, identifier)
    assert outbox.unacknowledged == publication(30)
    outbox.acknowledged(1)
    assert outbox.unacknowledged == publication(20)
    outbox.close()
    assert outbox.unacknowledged is None


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.randoms())
def test_it_is_drained_once_when_the_last_is_acknowledged_in_any_order(sizes: list[int], chance: Any) -> None:
    outbox = opened(10**6)
    for identifier, size in enumerate(sizes):
        outbox.put(publication(size))
        taken = outbox.take()
        assert isinstance(taken, Publication)
        outbox.sent(taken, identifier)
    order = list(range(len(sizes)))
    chance.shuffle(order)

    assert [outbox.acknowledged(identifier) for identifier in order] == [False] * (len(sizes) - 1) + [True]
    assert not outbox.acknowledged(order[0]), "said twice"
    outbox.wait_until_drained(60.0)


def test_a_closed_one_takes_nothing_and_has_forgotten_everything() -> None:
    outbox = Outbox()
    assert not outbox.put(publication(1))
    outbox.open()
    outbox.put(publication(1))
    taken = outbox.take()
    assert isinstance(taken, Publication)
    outbox.close()
    outbox.sent(taken, 1)
    outbox.wait_until_drained(60.0)
    assert not outbox.put(Subscription("a"))
    outbox.open()
    assert (outbox.take(), outbox.acknowledged(1)) == (None, False)


@given(st.lists(st.sampled_from(["deliver", "other", "take"]), max_size=200), st.integers(0, 5))
def test_an_inbox_is_full_while_more_waits_than_may(steps: list[str], allowed: int) -> None:
    """Others put events on the same queue: each can hide one delivery that was taken, and no more."""
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    cost = COST
    inbox = Inbox(events, allowed * cost)
    waiting: list[str] = []
    for step in steps:
        if step == "deliver":
            inbox.put(Delivery("t", bytes(1000)))
            waiting.append(step)
        elif step == "other":
            events.put(LinkUp())
            waiting.append(step)
        elif waiting:
            events.get()
            waiting.pop(0)
        if waiting.count("deliver") > allowed:
            assert inbox.is_full()
        if len(waiting) <= allowed:
            assert not inbox.is_full()
