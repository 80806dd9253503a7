"""Signals: noticed at once, also by a main thread whose wait they do not interrupt."""

from __future__ import annotations

import os
import queue
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fedprune.system.process import Terminated, interruptible, stopping

ALARM_S = 60.0
"""What waits would last without the signal; only a test that fails takes so long."""


@contextmanager
def strikes_elsewhere(number: signal.Signals) -> Iterator[threading.Event]:
    """Once the event is set, the signal comes to a thread that is not the main one.

    The main thread's wait is then not interrupted, as it is not by a signal that comes just before the wait begins.
    """
    ready = threading.Event()

    def send() -> None:
        ready.wait()
        signal.pthread_kill(threading.get_ident(), number)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield ready
    finally:
        ready.set()
        sender.join()


@pytest.mark.parametrize(
    ("number", "meaning"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_that_interrupts_no_wait_is_on_the_queue_at_once(number: signal.Signals, meaning: type) -> None:
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with stopping(events), strikes_elsewhere(number) as ready:
        ready.set()
        assert isinstance(events.get(timeout=ALARM_S), meaning)


class _Struck:
    """A signal strikes in its destructor, which no exception leaves."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number

    def __del__(self) -> None:
        signal.raise_signal(self._number)


def _strike_and_wait(number: signal.Signals) -> None:
    struck = _Struck(number)
    del struck
    threading.Event().wait(ALARM_S)
    pytest.fail("nobody was interrupted")


def test_ctrl_c_that_strikes_where_no_exception_leaves_is_noticed_all_the_same() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        _strike_and_wait(signal.SIGINT)


def test_other_signals_stop_nobody() -> None:
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    former = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with stopping(events):
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGTERM)
            assert isinstance(events.get(timeout=ALARM_S), Terminated)
        assert events.empty()
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_everything_is_as_it_was_afterwards() -> None:
    def state() -> tuple[object, ...]:
        wakeup = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(wakeup)
        handlers = tuple(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGURG))
        return (wakeup, handlers, threading.active_count(), sorted(os.listdir("/proc/self/fd")))

    before = state()
    for _ in range(3):
        with interruptible(), stopping(queue.SimpleQueue()):
            pass
    assert state() == before


def test_children_inherit_nothing_of_it() -> None:
    program = "import os, signal; print(signal.pthread_sigmask(0, []), sorted(os.listdir('/proc/self/fd')), end=' ')\n"
    program += "print([signal.getsignal(number) for number in (2, 15, 23)])"
    plain = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    with interruptible(), stopping(queue.SimpleQueue()):
        child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert child.stdout == plain


def test_ctrl_c_interrupts_a_command_that_is_about_to_block() -> None:
    """The main thread waits for a child, as the demo and the benchmark do."""

    def wait_for(child: subprocess.Popen[bytes]) -> None:
        with interruptible(), strikes_elsewhere(signal.SIGINT) as ready:
            ready.set()
            child.wait()

    with subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({ALARM_S})"]) as sleeper:
        try:
            with pytest.raises(KeyboardInterrupt):
                wait_for(sleeper)
            assert sleeper.poll() is None, "the wait was interrupted"
        finally:
            sleeper.kill()


_SIGNALLED = """
import os, queue, sys, threading
from fedprune.system.process import Terminated, stopping
events, alarm = queue.SimpleQueue(), float(sys.argv[2])
with stopping(events):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    for _ in range(int(sys.argv[1])):
        os.write(1, b"r")
        assert isinstance(events.get(timeout=alarm), KeyboardInterrupt | Terminated)
os.write(1, b".")
"""


def test_hundreds_of_signals_in_the_moment_before_the_wait_are_all_noticed_before_the_alarm() -> None:
    times = 600
    command = [sys.executable, "-c", _SIGNALLED, str(times), str(ALARM_S)]
    chance = random.Random(1)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        for _ in range(times):
            assert os.read(child.stdout.fileno(), 1) == b"r", child.stderr.read().decode()
            for _ in range(chance.randrange(120)):
                pass
            child.send_signal(chance.choice((signal.SIGINT, signal.SIGTERM)))
        assert os.read(child.stdout.fileno(), 1) == b".", child.stderr.read().decode()
