"""The owner of a state directory: whether somebody works there, who must not be disturbed."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from fedprune.system.ownership import LOCK

_LONGEST_PID = 20


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
