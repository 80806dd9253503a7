"""The reasons for which a link waits for its broker: each is said once, in the log and to the service manager."""

from __future__ import annotations

import logging

from fedprune.system.service import SERVICE

_log = logging.getLogger(__name__)


class ReasonsToWait:
    """Why each address of a broker cannot be used now. There are as many as a broker has addresses."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}

    def tell(self, address: str, why: str) -> None:
        """Say it, unless it was the address's last reason already."""
        if self._told.get(address) != why:
            self._told[address] = why
            _log.warning("%s (trying again until that changes)", why)
            SERVICE.status(why)

    def forget(self) -> None:
        """The broker lets us in: what comes after that is said anew."""
        if self._told:
            self._told.clear()
            SERVICE.status("connected to the broker")
