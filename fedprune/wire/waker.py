"""Something to wait for beside a socket."""

from __future__ import annotations

import contextlib
import socket


class Waker:
    """Is readable once another thread has woken it, until it is cleared."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._is_awake = False

    def fileno(self) -> int:
        return self._reader.fileno()

    def wake(self) -> None:
        """Wake whoever waits. It has to look for what is new after it has cleared, so one sign serves for all until
        then."""
        if self._is_awake:
            return
        self._is_awake = True
        with contextlib.suppress(BlockingIOError):  # full: nobody could be more awake
            self._writer.send(b"\0")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)
        self._is_awake = False  # last: who woke while it was true has a sign that was read, and is looked for now
