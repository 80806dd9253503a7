"""Findings: what a check found, in one line, and how that is mended."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """It works, and may not for long, or not as well as it could."""
    FAILED = "failed"
    UNKNOWN = "unknown"
    """It could not be examined, mostly since something before it failed."""


class Finding(msgspec.Struct, frozen=True):
    """What `check` found. `mending` says what to do about it; it is empty where nothing need be done."""

    check: str
    verdict: Verdict
    told: str
    mending: str = ""

    @property
    def line(self) -> str:
        """One line for people.

        Example:
            >>> Finding("disk", Verdict.FAILED, "no space left", "free some").line
            'FAILED   disk          no space left; free some'
        """
        verdict = self.verdict.upper() if self.verdict is Verdict.FAILED else self.verdict
        said = " ".join(f"{self.told}; {self.mending}".split()) if self.mending else " ".join(self.told.split())
        return f"{verdict:<8} {self.check:<13} {said}"


def ok(check: str, told: str) -> Finding:
    return Finding(check, Verdict.OK, told)


def warning(check: str, told: str, mending: str) -> Finding:
    return Finding(check, Verdict.WARNING, told, mending)


def failed(check: str, told: str, mending: str = "") -> Finding:
    """A message of ours says itself how it is mended: then `mending` is empty."""
    return Finding(check, Verdict.FAILED, told, mending)


def unknown(check: str, told: str) -> Finding:
    return Finding(check, Verdict.UNKNOWN, told)
