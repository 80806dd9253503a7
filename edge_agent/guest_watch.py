"""The watch over a device on which the agent is a guest: it looks every few seconds, and holds the training at once."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.agent_state import PermissionChanged
from edge_agent.guest import Guest, Moment, why_not
from fedprune.system.conditions import SINCE_BOOT, read_conditions
from fedprune.system.routes import default_interface
from fedprune.system.usage import bytes_written

_log = logging.getLogger(__name__)

_LOOK_S = 5.0
"""Between two looks at a device that limits its guest."""

_SELDOM_S = 60.0
"""The same where nothing is limited but wear: then power and heat are noticed."""


class GuestWatch:
    """Looks at the machine, and tells. `hold` is told at once whether to hold the training, `events` why.

    `threads` that train now count as the agent's own load. `root` is replaced in tests by another machine's files.
    """

    def __init__(
        self,
        guest: Guest,
        threads: Callable[[], int],
        hold: Callable[[bool], None],
        events: queue.SimpleQueue[Any],
        root: Path = Path("/"),
    ) -> None:
        self._guest = guest
        self._threads = threads
        self._hold = hold
        self._events = events
        self._root = root
        self._why = ""
        self._day = datetime.now().date()
        self._written_before = 0
        self._told: set[str] = set()
        self._asked: datetime | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look once, and then again and again in a thread."""
        ended = threading.Event()
        limits = msgspec.structs.replace(self._guest, max_written_mb_per_day=Guest().max_written_mb_per_day)
        pause = _SELDOM_S if limits == Guest() else _LOOK_S

        def watch() -> None:
            while not ended.wait(pause):
                self.look(datetime.now())

        self.look(datetime.now())
        threading.Thread(target=watch, name="guest", daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def look(self, now: datetime) -> None:
        """`now` is local time."""
        reading = read_conditions(self._root, asks_firmware=self._asks_firmware(now))
        self._note_power(reading.throttling or ())
        written = self._written_today(now)
        moment = Moment(now, reading, default_interface(self._root), written / 1e6, self._threads())
        why = why_not(self._guest, moment, is_waiting=bool(self._why))
        if bool(why) != bool(self._why):
            self._hold(bool(why))
            self._events.put(PermissionChanged(why))
        self._why = why

    def _asks_firmware(self, now: datetime) -> bool:
        """Seldom, since that may start a program."""
        if self._asked is not None and abs((now - self._asked).total_seconds()) < _SELDOM_S:
            return False
        self._asked = now
        return True

    def _written_today(self, now: datetime) -> int:
        written = bytes_written(self._root) or 0
        if now.date() != self._day:
            self._day, self._written_before = now.date(), written
        return written - self._written_before

    def _note_power(self, throttling: tuple[str, ...]) -> None:
        """Say once what was not so before."""
        for name in throttling:
            if name not in self._told and not name.endswith(SINCE_BOOT):
                cure = "take the power supply that is made for this board" if "voltage" in name else "cool the board"
                _log.warning("the board reports %s; %s", name, cure)
                self._told.add(name)
