"""The watch over the owner's approvals: the agent learns within seconds what was approved, or taken back."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edge_agent.consent_events import ConsentChanged
from edge_agent.consent_files import ConsentFiles
from fedprune.errors import StorageError
from fedprune.system.disk import Disk

_LOOK_S = 2.0
"""Between two looks at a small file."""


class ConsentWatch:
    """Puts a `ConsentChanged` on `events` whenever the approvals are others; a `StorageError` if none can be read."""

    def __init__(self, disk: Disk, events: queue.SimpleQueue[Any]) -> None:
        self._files = ConsentFiles(disk)
        self._events = events
        self._approved = frozenset(self._files.approved())

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look again and again, in a thread."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_LOOK_S):
                try:
                    self.look()
                except StorageError as error:
                    self._events.put(error)
                    return

        threading.Thread(target=watch, name="consent", daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def look(self) -> None:
        approved = frozenset(self._files.approved())
        if approved != self._approved:
            self._events.put(ConsentChanged(withdrawn=self._approved - approved))
        self._approved = approved
