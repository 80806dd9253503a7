"""systemd's end of the socket on which a service says that it is ready, alive, at what, and about to end."""

from __future__ import annotations

import queue
import socket
import threading
from contextlib import suppress
from pathlib import Path

from tests.patience import PATIENCE_S

_WATCHDOG_US = "400000"
_STATUS = "STATUS="


class Manager:
    """It always listens, since the kernel holds few datagrams."""

    def __init__(self, path: Path) -> None:
        self.status = ""
        """The last that the service said of what it does."""
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        threading.Thread(target=self._listen, daemon=True).start()
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": _WATCHDOG_US}

    def hears(self, *texts: str) -> None:
        """Wait until the service says one of `texts`."""
        while not any(text in said for said in [self._said.get(timeout=PATIENCE_S)] for text in texts):
            pass

    def forget(self) -> None:
        """What was said so far is of a process that ended."""
        self.status = ""
        with suppress(queue.Empty):
            while True:
                self._said.get_nowait()

    def _listen(self) -> None:
        while True:
            said = self._socket.recv(4096).decode()
            if said.startswith(_STATUS):
                self.status = said.removeprefix(_STATUS)
            self._said.put(said)
