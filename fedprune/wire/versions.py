"""The versions of the protocol that a side speaks, and the one that two sides agree on.

A release speaks its own version and, if there is one, the version before: so gateway and devices can be upgraded one
after the other, in any order. A version that only adds says so by fields behind those that there are, which older
readers pass over; whatever means something else is said only to a side that speaks the version.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Versions:
    """All versions from `oldest` to `newest`."""

    oldest: int
    newest: int

    def __contains__(self, version: int) -> bool:
        return self.oldest <= version <= self.newest

    def __str__(self) -> str:
        return f"version {self.newest}" if self.oldest == self.newest else f"versions {self.oldest} to {self.newest}"

    def common(self, other: Versions) -> int | None:
        """The newest version that both sides speak; None if there is none.

        Example:
            >>> Versions(6, 7).common(Versions(7, 8)), Versions(6, 7).common(Versions(8, 9))
            (7, None)
        """
        newest = min(self.newest, other.newest)
        return newest if newest in self and newest in other else None


SPOKEN = Versions(7, 7)
"""By this release."""
