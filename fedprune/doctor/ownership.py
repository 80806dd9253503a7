"""The owner of a state directory: whether somebody works there, who must not be disturbed."""

from __future__ import annotations

import fcntl
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedprune.doctor.finding import Finding, failed, ok
from fedprune.errors import FedpruneError
from fedprune.system.ownership import LOCK, become_owner

_LONGEST_PID = 20


def examine_user(directory: Path) -> Iterator[Finding]:
    """Become the user whose directory this is, if this process is root's: files are then looked at as that user's
    service will find them, and none that is made is root's. Nothing is said where nothing had to change."""
    before = os.geteuid()
    try:
        become_owner(directory)
    except FedpruneError as error:
        yield failed("user", str(error))
        return
    if os.geteuid() != before:
        yield ok("user", f"examined as {pwd.getpwuid(os.geteuid()).pw_name}, whose {directory} is")


@dataclass(frozen=True)
class Owner:
    """`is_there`: somebody owns the directory, the process `pid` if that is known; None if nobody can tell."""

    is_there: bool | None
    pid: int | None = None
    problem: str = ""


def owner_of(state: Path) -> Owner:
    """Look, and change nothing: the lock is held for a moment at most, and shared."""
    try:
        descriptor = os.open(state / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return Owner(False)
    except OSError as error:
        return Owner(None, problem=f"{state / LOCK}: {error.strerror}")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(descriptor, _LONGEST_PID, 0).strip()
        return Owner(True, int(pid) if pid.isdigit() else None)
    except OSError as error:
        return Owner(None, problem=f"{state / LOCK}: {error.strerror}")
    finally:
        os.close(descriptor)
    return Owner(False)
