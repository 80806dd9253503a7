"""What the long-lived processes have in common: events instead of signals, one kind of log, and how they end."""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

_ABANDONABLE = "abandonable"


@contextmanager
def stopping(events: queue.SimpleQueue[Any]) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into a `KeyboardInterrupt` on `events`: they strike between transitions, not within."""
    signals = (signal.SIGINT, signal.SIGTERM)
    former = [signal.signal(number, lambda *_: events.put(KeyboardInterrupt())) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, former, strict=True):
            signal.signal(number, handler)


def log_to_stderr(name: str, *, verbose: bool) -> None:
    """One line a message, headed by the process's name; what other libraries say only if it is a warning.

    Python's standard error gets a descriptor of its own: what `fedprune.system.quiet` catches on descriptor 2 while
    TensorFlow loads in another thread is then C++'s chatter alone, and no last word of ours is lost.
    """
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    head = name.replace("%", "%%")
    logging.basicConfig(format=f"%(asctime)s {head}: %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    level = logging.INFO if verbose else logging.WARNING
    for package in ("fedprune", "edge_agent", "aggregator"):
        logging.getLogger(package).setLevel(level)


def start_abandonable(work: Callable[..., None], *arguments: Any) -> None:
    """Run `work` in a thread for which nobody waits when the process ends."""
    threading.Thread(target=work, args=arguments, name=_ABANDONABLE, daemon=True).start()


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
