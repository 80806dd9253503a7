"""One owner for a state directory: a second process that would write there is refused with one line."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from fedprune.errors import StorageError
from fedprune.system.disk import Directory, storage_error

LOCK = ".owner"
"""The file that is locked, in the directory. It holds the owner's process id, for the message, and is never deleted."""

_LONGEST_PID = 20


@contextlib.contextmanager
def owned(path: Path, *below: str) -> Iterator[Directory]:
    """The directory `path`, which nobody else owns meanwhile. It is made if there is none.

    Whatever drafts a power cut left in it, and in its subdirectories `below`, are deleted, and what else is found is
    made durable. The kernel ends the ownership with the process, however that ends. Who only reads needs no ownership
    and makes a `Directory`.
    Raises `StorageError` if another process owns it.
    """
    directory = Directory(path)
    with _lock(path):
        for part in (directory, *(Directory(path / name) for name in below)):
            part.discard_drafts()
            part.sync()
        yield directory


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    try:
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise storage_error(path / LOCK, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        except BlockingIOError as error:
            raise StorageError(
                f"{path} is in use by {_owner(descriptor)}; stop it, or name another state directory"
            ) from error
        except OSError as error:
            raise storage_error(path / LOCK, error) from error
        yield
    finally:
        os.close(descriptor)


def _owner(descriptor: int) -> str:
    pid = os.pread(descriptor, _LONGEST_PID, 0).strip()
    return f"process {pid.decode()}" if pid.isdigit() else "another process"
