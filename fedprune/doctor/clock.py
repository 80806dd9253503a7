"""The clock, and the certificates that are valid by it. A Pi has no clock of its own and may start in any year."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from fedprune.doctor.certificate_dates import validity
from fedprune.doctor.finding import Finding, failed, ok, warning
from fedprune.errors import ProtocolError
from fedprune.system.clock import SET_IT, installed, why_past
from fedprune.system.disk import why_unreadable

_OUTLIVED = timedelta(days=10 * 365)
"""After the installation, as long as certificates of a gateway live: a clock beyond is likely to be ahead."""

_SOON = timedelta(days=30)
"""Before a certificate's end, in which it is said."""


def examine_clock(now: datetime) -> Finding:
    """`now` is what this machine takes for the present."""
    return judge_clock(now, installed())


def judge_clock(now: datetime, earliest: datetime) -> Finding:
    """`earliest` is when fedprune was installed here."""
    if why := why_past(now, earliest):
        return failed("clock", why, SET_IT)
    if now > earliest + _OUTLIVED:
        return warning(
            "clock",
            f"it says {now:%Y-%m-%d %H:%M} UTC, and fedprune was installed on {earliest:%Y-%m-%d}: is it that late?",
            f"if it is not, {SET_IT}",
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
        return failed(check, f"{what} is valid from {begins:%Y-%m-%d} on, and the clock says {now:%Y-%m-%d}", SET_IT)
    if now > ends:
        mending = (
            f"if the clock is wrong, {SET_IT}; else renew it (a gateway's: `fedprune gateway init` once more; a "
            "device's: enrol it anew)"
        )
        return failed(check, f"{what} has expired on {ends:%Y-%m-%d}, and the clock says {now:%Y-%m-%d}", mending)
    if now > ends - _SOON:
        return warning(check, f"{what} expires on {ends:%Y-%m-%d}", "renew it before that")
    return ok(check, f"{what} is valid until {ends:%Y-%m-%d}")
