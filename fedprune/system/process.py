"""The common parts of long-lived processes: events instead of signals, one kind of log, and how they end."""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from fedprune.system.output import droppable
from fedprune.system.service import SERVICE

_log = logging.getLogger(__name__)

_ABANDONABLE = "abandonable"

_NUDGE = signal.SIGURG
"""Ends a blocking call, and means nothing: who does not handle it ignores it, and so do children."""

_INSIST_S = 0.05
_READ_AT_ONCE = 64

_SET_PARENT_DEATH_SIGNAL = 1
"""Of Linux's prctl."""

LAST_S = 1.5
"""A service that was told to end has so long to do it in order: to take leave of the broker, to finish a step. What it
cuts short then it would lose to a power cut as well, and so nothing that counts."""

_is_service = threading.Event()
_is_told_to_end = threading.Event()


class Terminated(BaseException):
    """SIGTERM: whoever started the process wants it to end, and that is no failure."""


class _Unwinding(BaseException):
    """SIGTERM, on its way through what has to be left in order."""


@contextmanager
def as_service() -> Iterator[None]:
    """SIGTERM ends what is within by `Terminated`, which is no failure, and in any case `LAST_S` after it came.

    Whatever the main thread computes or waits for then, the process ends, with exit code 0.
    """
    _is_told_to_end.clear()
    _is_service.set()
    try:
        yield
    except _Unwinding as told:
        raise Terminated from told
    except Exception as error:
        # A library's module whose import the signal cut short says that it cannot be imported.
        if _is_told_to_end.is_set():
            raise Terminated from error
        raise
    finally:
        SERVICE.ending()
        _is_service.clear()  # a last moment that has begun goes on: what ends the process comes after this


def _begin_last_moment(number: signal.Signals) -> None:
    if number == signal.SIGTERM and (SERVICE.is_managed or _is_service.is_set()):
        threading.Thread(target=_end_late, name="last moment", daemon=True).start()


def _end_late() -> None:
    time.sleep(LAST_S)
    _log.warning("told to end %s s ago: the rest is left undone, and made anew by the next start", LAST_S)
    os._exit(0)


@contextmanager
def stopping(events: queue.SimpleQueue[Any]) -> Iterator[None]:
    """Turn SIGINT into a `KeyboardInterrupt` on `events` and SIGTERM into `Terminated`: they strike between
    transitions, not within."""
    ends = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}

    def tell(number: signal.Signals) -> None:
        _begin_last_moment(number)
        events.put(ends[number]())

    with _told_of(tuple(ends), tell), _handled_by(lambda *_: None, tuple(ends)):
        yield


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise `KeyboardInterrupt` in the main thread at once, also in one that is about to block.

    SIGTERM likewise unwinds what is within, so that it can end its children; then the process ends by the signal, or by
    `Terminated` if a service manager started it: it is being started, and `as_service` comes later. One of the two that
    whoever started us has ignored, or handles, is left to them.

    Python notices a signal between two instructions, or as it ends a blocking call. One that arrives in the moment
    before the call blocks would be noticed when the call returns: here the call is ended again and again until it is.
    """
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    ours = tuple(number for number, default in defaults.items() if signal.getsignal(number) is default)
    noticed = threading.Event()
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    def interrupt(number: int, _: object) -> None:
        noticed.set()
        if number == signal.SIGTERM:
            _is_told_to_end.set()
        raise KeyboardInterrupt if number == signal.SIGINT else _Unwinding

    def insist(number: signal.Signals) -> None:
        _begin_last_moment(number)
        while not noticed.wait(_INSIST_S):
            signal.pthread_kill(main_thread, _NUDGE)

    try:
        with (
            _handled_by(lambda *_: None, (_NUDGE,)),
            _sent_again_where_swallowed({KeyboardInterrupt: signal.SIGINT, _Unwinding: signal.SIGTERM}),
            _handled_by(interrupt, ours),
            _told_of(ours, insist),  # ends first: the handler stays while somebody insists on it
        ):
            yield
    except _Unwinding as told:
        if SERVICE.is_managed:
            raise Terminated from told
        os.kill(os.getpid(), signal.SIGTERM)
    except Exception as error:
        if SERVICE.is_managed and _is_told_to_end.is_set():  # as in `as_service`
            raise Terminated from error
        raise


@contextmanager
def _sent_again_where_swallowed(signals: Mapping[type[BaseException], signal.Signals]) -> Iterator[None]:
    """Send a signal a second time whose exception Python swallows: none leaves a destructor, nor what is called for a
    weak reference, as at each import."""
    former = sys.unraisablehook

    def send_again(swallowed: sys.UnraisableHookArgs) -> None:
        number = signals.get(swallowed.exc_type)
        if number is None:
            former(swallowed)
            return
        later = threading.Timer(_INSIST_S, os.kill, (os.getpid(), number))  # what is raised now is swallowed too
        later.daemon = True
        later.start()

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = former


@contextmanager
def _told_of(signals: Sequence[signal.Signals], tell: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call `tell` in a thread of its own whenever one of `signals` arrives, whatever the main thread waits for.

    The interpreter runs handlers in the main thread only, but has the signal's number written to a descriptor at once.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def watch() -> None:
        while numbers := reader.recv(_READ_AT_ONCE):
            for number in signals:
                if number in numbers:
                    tell(number)

    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    former = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)
        writer.close()  # ends `watch`
        watcher.join()
        reader.close()


@contextmanager
def _handled_by(handler: Callable[..., None], signals: Sequence[signal.Signals]) -> Iterator[None]:
    former = [signal.signal(number, handler) for number in signals]
    try:
        yield
    finally:
        for number, handled in zip(signals, former, strict=True):
            signal.signal(number, handled)


def log_to_stderr(name: str, *, verbose: bool) -> None:
    """One line a message, headed by the process's name; what other libraries say only if it is a warning.

    Python's standard error gets a descriptor of its own: what `fedprune.system.quiet` catches on descriptor 2 while
    TensorFlow loads in another thread is then C++'s chatter alone, and no last word of ours is lost.
    """
    sys.stderr.flush()
    sys.stderr = droppable(os.dup(2))
    head = name.replace("%", "%%")
    logging.basicConfig(format=f"%(asctime)s {head}: %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    level = logging.INFO if verbose else logging.WARNING
    for package in ("fedprune", "edge_agent", "aggregator"):
        logging.getLogger(package).setLevel(level)


def start_abandonable(work: Callable[..., None], *arguments: Any) -> None:
    """Run `work` in a thread for which nobody waits when the process ends."""
    threading.Thread(target=work, args=arguments, name=_ABANDONABLE, daemon=True).start()


def end_with_parent() -> None:
    """Have Linux end this process, whatever it does, when the thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def leave(exit_code: int) -> NoReturn:
    """End the process.

    An abandoned thread would be torn out of TensorFlow's C++ code by the interpreter's own way of ending, and that
    aborts the process with another exit code: then there is no more to the end than flushing.
    """
    if any(thread.name == _ABANDONABLE for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)
