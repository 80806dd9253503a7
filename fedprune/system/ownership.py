"""One owner for a state directory: a second process that would write there is refused with one line.

And one user: root who works on another user's directory becomes that user first, so that no file there is root's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from fedprune.errors import StorageError
from fedprune.system.disk import Directory, storage_error

LOCK = ".owner"
"""The file that is locked, in the directory. It holds the owner's process id, for the message, and is never deleted."""

_LONGEST_PID = 20


def become_owner(path: Path) -> None:
    """Where this process is root's and the directory `path` another user's, the process is that user's from now on.

    So `sudo fedprune join` leaves files that the service, which is not root's, can read and replace.
    Raises `StorageError` if this process's user may not work there, and for an owner that root cannot become.
    """
    try:
        owner = path.stat()
    except OSError:
        return  # it will be made, and is then whose the process is
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise StorageError(f"{path}: its owner and root alone may work there; use sudo, or name another directory")
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    try:
        user = pwd.getpwuid(owner.st_uid)
        os.initgroups(user.pw_name, user.pw_gid)
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    except (KeyError, OSError) as error:
        raise StorageError(f"{path} is of user {owner.st_uid}, whom root cannot become here ({error})") from error


@contextlib.contextmanager
def keeping_owner(file: Path) -> Iterator[None]:
    """The file, which is written anew meanwhile, is its former owner's afterwards, though root wrote it.

    Raises `StorageError` if there is no such file, or its file system has it be another's.
    """
    try:
        former = file.stat()
        yield
        if file.stat().st_uid != former.st_uid:
            os.chown(file, former.st_uid, former.st_gid)
    except OSError as error:
        raise storage_error(file, error) from error


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
