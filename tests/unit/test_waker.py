"""What wakes a thread that waits: one sign for all who woke it, and none that is missed."""

from __future__ import annotations

import queue
import select
import threading
from functools import partial

from fedprune.wire.waker import Waker
from tests.patience import PATIENCE_S


def is_awake(waker: Waker) -> bool:
    poller = select.poll()
    poller.register(waker, select.POLLIN)
    return bool(poller.poll(0))


def test_it_is_awake_from_the_first_wake_until_it_is_cleared() -> None:
    waker = Waker()
    assert not is_awake(waker)
    for _ in range(3):
        waker.wake()
        assert is_awake(waker)

    waker.clear()

    assert not is_awake(waker)
    waker.wake()
    assert is_awake(waker)


def test_whoever_puts_something_down_and_wakes_is_heard_whatever_the_other_does_meanwhile() -> None:
    waker, left, most = Waker(), queue.SimpleQueue[int](), 2000

    def put() -> None:
        for number in range(most):
            left.put(number)
            waker.wake()

    threads = [threading.Thread(target=put) for _ in range(2)]
    for thread in threads:
        thread.start()
    poller, found = select.poll(), list[int]()
    poller.register(waker, select.POLLIN)
    while len(found) < 2 * most:
        assert poller.poll(1000 * PATIENCE_S), f"nobody woke for what was put down after {len(found)}"
        waker.clear()
        found += iter(partial(_next, left), None)
    for thread in threads:
        thread.join()

    assert sorted(found) == sorted([*range(most), *range(most)])


def _next(left: queue.SimpleQueue[int]) -> int | None:
    try:
        return left.get_nowait()
    except queue.Empty:
        return None
