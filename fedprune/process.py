"""What the long-lived processes have in common: events instead of signals, and one kind of log."""

from __future__ import annotations

import logging
import queue
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
    """One line a message, headed by the process's name; what other libraries say only if it is a warning."""
    head = name.replace("%", "%%")
    logging.basicConfig(format=f"%(asctime)s {head}: %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    level = logging.INFO if verbose else logging.WARNING
    for package in ("fedprune", "edge_agent", "aggregator"):
        logging.getLogger(package).setLevel(level)
