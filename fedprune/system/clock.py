"""The clock of this machine, judged by what was before: a Pi has no clock of its own, and may start in any year."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import fedprune
from fedprune.errors import ConfigurationError

_WRITTEN = datetime(2026, 11, 1, tzinfo=UTC)
"""No clock is right that is before the month in which this was written."""

SET_IT = "set the clock: sudo timedatectl set-ntp true, or sudo date -s 'YYYY-MM-DD HH:MM'"


def installed() -> datetime:
    """When this very code was put here, and no earlier than it was written; packages keep the time at which they were
    built."""
    try:
        return max(_WRITTEN, datetime.fromtimestamp(Path(fedprune.__file__).stat().st_mtime, UTC))
    except OSError:
        return _WRITTEN


def why_past(now: datetime, earliest: datetime) -> str:
    """Why a clock that says `now` cannot be right, if fedprune was installed at `earliest`; empty if it can be.

    A clock that was ahead as fedprune was installed makes the present look past: then only that can be mended.
    """
    if now >= earliest:
        return ""
    return (
        f"it says {now:%Y-%m-%d %H:%M} UTC, which is past: fedprune was installed on {earliest:%Y-%m-%d} or later (if "
        "that was a wrong clock's date, install fedprune anew)"
    )


def check_clock(now: datetime) -> None:
    """Raise `ConfigurationError` where a date that is about to be written down would be wrong for certain."""
    if why := why_past(now, installed()):
        raise ConfigurationError(f"this machine's clock: {why}; {SET_IT}")
