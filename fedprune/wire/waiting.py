"""The reasons for which a link waits for its broker: each is said once, in the log and to the service manager."""

from __future__ import annotations

import logging

from fedprune.system.service import SERVICE

_log = logging.getLogger(__name__)


MOST_REASONS = 16
"""That are remembered as said of one address; then they are said anew."""


class ReasonsToWait:
    """Why each address of a broker cannot be used now. There are as many as a broker has addresses."""

    def __init__(self) -> None:
        self._told: dict[str, list[str]] = {}
        """By address what was said of it, the present reason last."""

    def tell(self, address: str, why: str) -> None:
        """Log it, unless that was done since the broker let us in last: reasons may take turns. The service manager
        hears of each change."""
        told = self._told.setdefault(address, [])
        if told and told[-1] == why:
            return
        SERVICE.status(why)
        if why in told:
            told.remove(why)
        else:
            _log.warning("%s (trying again until that changes)", why)
        del told[: max(len(told) + 1 - MOST_REASONS, 0)]
        told.append(why)

    def forget(self) -> None:
        """The broker lets us in: what comes after that is said anew."""
        if self._told:
            self._told.clear()
            SERVICE.status("connected to the broker")
