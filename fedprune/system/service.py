"""What systemd is told of a service: that it is ready, alive and about to end (sd_notify(3)).

That takes datagrams to one socket and no library. Where nobody asks for them, as in a terminal, nothing is sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

_SOCKET, _WATCHDOG_US = "NOTIFY_SOCKET", "WATCHDOG_USEC"

_SIGNS_PER_PERIOD = 4
"""Signs of life in the time after which systemd takes a service without one for dead."""

_LONGEST_STATUS = 200

_PATIENCE_S = 0.5
"""What a busy manager may take for one datagram."""


class ServiceManager:
    """The manager that started this process, if one did. Any thread may use it."""

    def __init__(self, address: str | None, watchdog_s: float | None) -> None:
        self._address = address
        self._interval_s = None if watchdog_s is None else watchdog_s / _SIGNS_PER_PERIOD
        self._last_sign = float("-inf")

    @classmethod
    def of_this_process(cls) -> ServiceManager:
        """What the environment says of it."""
        period = os.environ.get(_WATCHDOG_US, "")
        watches = period.isascii() and period.isdigit() and int(period) > 0
        return cls(os.environ.get(_SOCKET), int(period) / 1e6 if watches else None)

    @property
    def is_managed(self) -> bool:
        """A manager waits to hear of this process."""
        return bool(self._address)

    def wait_until(self, alarm: float | None) -> float | None:
        """Seconds that a main loop may wait, of which `alarm` is the end by the monotonic clock; None is for ever."""
        left = None if alarm is None else max(0.0, alarm - time.monotonic())
        if self._interval_s is None:
            return left
        return self._interval_s if left is None else min(left, self._interval_s)

    def ready(self) -> None:
        """The settings can be used, and work begins: whoever waits for the service goes on."""
        self._tell("READY=1")

    def alive(self) -> None:
        """The main loop goes round. May be called as often as it does."""
        now = time.monotonic()
        if self._interval_s is not None and now - self._last_sign >= self._interval_s:
            self._last_sign = now
            self._tell("WATCHDOG=1")

    def ending(self) -> None:
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._tell(f"STATUS={' '.join(text.split())[:_LONGEST_STATUS]}")

    def _tell(self, what: str) -> None:
        """A manager that does not hear is no reason to end."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
            datagrams.settimeout(_PATIENCE_S)
            datagrams.sendto(what.encode(), address)


SERVICE = ServiceManager.of_this_process()
"""Whoever started this process."""
