"""Consent on the disk: what asked for it, which the agent alone writes, and what was approved, which the owner does."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from edge_agent.consent import TaskFacts
from fedprune.errors import StorageError
from fedprune.system.disk import Disk

MOST_ASKED = 16
"""Tasks whose facts are kept; those that asked first are forgotten first."""

MOST_APPROVED = 256
"""Approvals that are kept; the oldest go first, and their tasks ask again."""

_ASKED = "consent-asked.json"
_APPROVED = "consent-approved.json"

_T = TypeVar("_T")


class ConsentFiles:
    """Both lists, on the agent's `Disk`. Each method raises `StorageError` if a file cannot be read or written."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def asked(self) -> tuple[TaskFacts, ...]:
        """The tasks that asked, the newest last, approved ones among them."""
        return self._read(_ASKED, tuple[TaskFacts, ...], ())

    def approved(self) -> tuple[str, ...]:
        """Digests (hex) of the tasks that the owner approved, the newest last."""
        return self._read(_APPROVED, tuple[str, ...], ())

    def ask(self, facts: TaskFacts) -> None:
        """Note that a task asks. The agent alone calls this."""
        asked = self.asked()
        if facts in asked:
            return
        others = tuple(other for other in asked if other.digest != facts.digest)
        self._disk.write(_ASKED, msgspec.json.encode((*others, facts)[-MOST_ASKED:]))

    def approve(self, digest: str) -> None:
        self._disk.write(_APPROVED, msgspec.json.encode((*self._without(digest), digest)[-MOST_APPROVED:]))

    def withdraw(self, digest: str) -> None:
        self._disk.write(_APPROVED, msgspec.json.encode(self._without(digest)))

    def _without(self, digest: str) -> tuple[str, ...]:
        return tuple(other for other in self.approved() if other != digest)

    def _read(self, name: str, form: type[_T], otherwise: _T) -> _T:
        blob = self._disk.read(name)
        if blob is None:
            return otherwise
        try:
            return msgspec.json.decode(blob, type=form)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StorageError(f"the agent's {name}: {error}; delete it, and approve again what you trust") from error
