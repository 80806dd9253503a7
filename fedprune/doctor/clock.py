"""The clock, and the certificates that are valid by it. A Pi has no clock of its own and may start in any year."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import fedprune
from fedprune.doctor.certificate_dates import validity
from fedprune.doctor.finding import Finding, failed, ok, warning
from fedprune.errors import ProtocolError
from fedprune.system.disk import why_unreadable

_WRITTEN = datetime(2026, 11, 1, tzinfo=UTC)
"""No clock is right that is before the month in which this was written."""

_SOON = timedelta(days=30)
"""Before a certificate's end, in which it is said."""

_SET_IT = "set the clock: sudo timedatectl set-ntp true, or sudo date -s 'YYYY-MM-DD HH:MM'"


def examine_clock(now: datetime) -> Finding:
    """`now` is what this machine takes for the present."""
    return judge_clock(now, _installed())


def judge_clock(now: datetime, installed: datetime) -> Finding:
    """The clock can be judged by what was before: this was written, and then installed."""
    earliest = max(_WRITTEN, installed)
    if now < earliest:
        return failed(
            "clock",
            f"it says {now:%Y-%m-%d %H:%M} UTC, which is past: fedprune was installed on {earliest:%Y-%m-%d} or later",
            _SET_IT,
        )
    return ok("clock", f"{now:%Y-%m-%d %H:%M} UTC")


def examine_certificate(path: Path, what: str, now: datetime) -> Finding:
    """The dates of the first certificate in a PEM file; `what` says which setting names it."""
    check = "certificate"
    if why := why_unreadable(path):
        return failed(check, f"{what}: {path}: {why}", "name a PEM file")
    try:
        begins, ends = validity(path.read_bytes())
    except ProtocolError as error:
        return failed(check, f"{what}: {path}: {error}", "name a PEM file, or restore it")
    return judge_dates(f"{what}: {path}", begins, ends, now)


def judge_dates(what: str, begins: datetime, ends: datetime, now: datetime) -> Finding:
    check = "certificate"
    if now < begins:
        return failed(check, f"{what} is valid from {begins:%Y-%m-%d} on, and the clock says {now:%Y-%m-%d}", _SET_IT)
    if now > ends:
        mending = "renew it (a gateway's: `fedprune gateway init` once more; a device's: enrol it anew)"
        return failed(check, f"{what} has expired on {ends:%Y-%m-%d}, and the clock says {now:%Y-%m-%d}", mending)
    if now > ends - _SOON:
        return warning(check, f"{what} expires on {ends:%Y-%m-%d}", "renew it before that")
    return ok(check, f"{what} is valid until {ends:%Y-%m-%d}")


def _installed() -> datetime:
    """When this very code was put here; packages keep the time at which they were built."""
    try:
        return datetime.fromtimestamp(Path(fedprune.__file__).stat().st_mtime, UTC)
    except OSError:
        return _WRITTEN
