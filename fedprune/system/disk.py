"""The disk as fedprune uses it: named blobs that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from fedprune.errors import StorageError

_PIECE = 1 << 20


class Disk(Protocol):
    """A flat store of named blobs. A write is durable and atomic once `write` returns."""

    def write(self, name: str, blob: bytes) -> None: ...

    def write_through(self, name: str, fill: Callable[[BinaryIO], object]) -> None:
        """`write` for a blob that need not be in memory: `fill` writes it."""
        ...

    def append(self, name: str, data: bytes) -> None:
        """Put data behind a blob, or make one of it. A crash may lose it, and a power cut all that was appended."""
        ...

    def read(self, name: str) -> bytes | None:
        """The blob, or None where there is none of this name."""
        ...

    def delete(self, name: str) -> None:
        """Remove a blob; one that is not there is no error."""
        ...

    def names(self) -> list[str]:
        """All names, sorted."""
        ...

    def free(self) -> int:
        """The bytes that there is room for."""
        ...


class Directory:
    """A `Disk` in a directory, which is made if there is none, and durably.

    Every method raises `StorageError` where the operating system refuses. What is there already is not written again:
    cards wear.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not path.is_dir():
                _make(path)
        except (FileExistsError, NotADirectoryError) as error:
            raise StorageError(f"{path}: a file is where this directory should be; name another one") from error
        except OSError as error:
            raise storage_error(path, error) from error

    def write(self, name: str, blob: bytes) -> None:
        if not _holds(self.path / name, blob):
            self._replace(name, lambda file: file.write(blob))

    def write_through(self, name: str, fill: Callable[[BinaryIO], object]) -> None:
        self._replace(name, fill)

    def write_private(self, name: str, blob: bytes) -> None:
        """`write` for a secret: nobody but the owner may ever read the file, its draft included."""
        self._replace(name, lambda file: file.write(blob), _private_opener)

    def append(self, name: str, data: bytes) -> None:
        try:
            with (self.path / name).open("ab", buffering=0) as file:
                file.write(data)
        except OSError as error:
            raise storage_error(self.path / name, error) from error

    def copy_in(self, name: str, source: Path) -> None:
        """Write a copy of the file `source`, however large it is."""

        def copy(file: BinaryIO) -> None:
            with source.open("rb") as original:
                shutil.copyfileobj(original, file)

        if not _are_equal(self.path / name, source):
            self._replace(name, copy)

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(self.path / name, error) from error

    def delete(self, name: str) -> None:
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(self.path / name, error) from error

    def names(self) -> list[str]:
        try:
            return sorted(path.name for path in self.path.iterdir() if path.is_file() and not path.name.startswith("."))
        except OSError as error:
            raise storage_error(self.path, error) from error

    def free(self) -> int:
        try:
            return shutil.disk_usage(self.path).free
        except OSError as error:
            raise storage_error(self.path, error) from error

    def discard_drafts(self) -> None:
        """Delete what writes left that a power cut ended. Only who owns the directory may: others may be writing."""
        try:
            for draft in self.path.glob(_draft_of("*")):
                draft.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(self.path, error) from error

    def sync(self) -> None:
        """Make all names in it durable, and its own.

        After a power cut a name may be gone that was not synced. A process that was killed before it synced leaves such
        names, and who finds them believes them: who owns the directory syncs it first.
        """
        try:
            _sync_names(self.path)
            _sync_name(self.path)
        except OSError as error:
            raise storage_error(self.path, error) from error

    def _replace(
        self, name: str, fill: Callable[[BinaryIO], object], opener: Callable[[str, int], int] | None = None
    ) -> None:
        """Fill a draft, make it durable, and put it in the place of `name`."""
        target = self.path / name
        draft = target.with_name(_draft_of(name))
        try:
            with open(draft, "wb", opener=opener) as file:
                fill(file)
                file.flush()
                if opener is None and _are_equal(target, draft):
                    draft.unlink()
                    _sync_names(self.path)  # what was deleted before it
                    return
                os.fsync(file.fileno())
            draft.replace(target)
            _sync_names(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise storage_error(target, error) from error


def _holds(path: Path, blob: bytes) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_size == len(blob) and path.read_bytes() == blob
    return False


def _are_equal(path: Path, other: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as ours, other.open("rb") as theirs:
        if os.fstat(ours.fileno()).st_size != os.fstat(theirs.fileno()).st_size:
            return False
        while piece := ours.read(_PIECE):
            if piece != theirs.read(_PIECE):
                return False
        return True
    return False


def _private_opener(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)  # a draft that a power cut left may have been made with other rights
    return descriptor


def _make(path: Path) -> None:
    """Make a directory, and those above it that are missing. Each has a durable name before anything is put into it."""
    if path.parent.is_dir():
        _sync_name(path.parent)  # who made it may have been killed before it synced
    else:
        _make(path.parent)
    path.mkdir(exist_ok=True)
    _sync_name(path)


def _sync_name(directory: Path) -> None:
    """Make a directory's own name durable. Where its parent may not be read, somebody else made it, and saw to that."""
    with contextlib.suppress(PermissionError):
        _sync_names(directory.parent)


def _sync_names(directory: Path) -> None:
    """Make durable what was created, renamed and deleted in a directory: syncing the files does not."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _draft_of(name: str) -> str:
    return f".{name}.draft"


def copy_durably(source: Path, target: Path) -> None:
    """Copy a file, or a directory with all that is in it; only the name `target` itself is not yet durable.

    Raises `OSError` where the operating system refuses.
    """
    if source.is_dir():
        target.mkdir()
        for each in sorted(source.iterdir()):
            copy_durably(each, target / each.name)
        _sync_names(target)
        return
    with source.open("rb") as original, target.open("xb") as file:
        shutil.copyfileobj(original, file)
        file.flush()
        os.fsync(file.fileno())


def has_no_room(error: StorageError) -> bool:
    """True where no other file on that disk could be written either: it is full, or may not be written at all."""
    cause = error.__cause__
    if isinstance(cause, OSError):
        return cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return getattr(cause, "sqlite_errorname", "") in ("SQLITE_FULL", "SQLITE_READONLY")  # agents load no SQLite


def why_unreadable(path: Path) -> str:
    """Why `path` is no file that can be read, to be put behind its name; empty if it is one."""
    try:
        if path.is_dir():
            return "is a directory"
        if not stat.S_ISREG(path.stat().st_mode):
            return "is not a regular file"
        path.open("rb").close()
        return ""
    except FileNotFoundError:
        return "there is no such file"
    except OSError as error:
        return error.strerror or str(error)


def storage_error(path: Path, error: OSError) -> StorageError:
    """Tell what a person can do about an operating system's refusal."""
    return StorageError(f"{path}: {error.strerror}; free space or mend the directory and start again: nothing is lost")
