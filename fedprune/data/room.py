"""Room for examples: so much memory, and for those that take more a working file on the disk."""

from __future__ import annotations

import os
import shutil
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedprune.errors import DataError
from fedprune.system.paths import path_text
from fedprune.system.usage import device_memory_mb

MAX_BYTES = 2**31
"""Bytes of examples that are in memory at a time, all inputs or all labels of them: as stored, and as loaded."""

MAX_STORED_BYTES = 2**42
"""Bytes of examples that are on a disk. Nothing is reserved for them: it bounds what a header may claim."""

MAX_EXAMPLES = 2**26
"""Examples that there may be, however small: who holds some of them out has a number of 4 bytes for each."""

_MEMORY_SHARE = 0.125
"""Of the device's memory that examples may take: a model's training graph, and what runs it, are there beside them. A
little more is there for a moment when some of them are held out."""

_DISK_SHARE = 0.5
"""Of the free disk that a working file may take."""

_SYNCED = 2**24
"""Bytes that are written before they go to the disk: until then the kernel cannot take their memory back."""


class OpenFile:
    """A file that is read at any place, and is closed with the last who refers to it."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor: Final = descriptor
        self.name: Final = name
        self._close = weakref.finalize(self, os.close, descriptor)

    def read_into(self, buffer: memoryview, place: int) -> None:
        """Fill the buffer with the bytes from that place on. Raises `DataError` where there are not so many."""
        done = 0
        try:
            while done < len(buffer):
                count = os.preadv(self.descriptor, [buffer[done:]], place + done)
                if not count:
                    raise DataError(f"{self.name}: it became shorter while it was read; start again")
                done += count
        except OSError as error:
            raise DataError(f"{self.name}: {error.strerror}; make the file readable") from error

    def expect(self, place: int, size: int) -> None:
        """Have these bytes read ahead, since they are wanted soon."""
        os.posix_fadvise(self.descriptor, place, size, os.POSIX_FADV_WILLNEED)


class WorkingFile:
    """A file without a name, which ends with whoever reads it, or the process. It is written from front to back."""

    def __init__(self, directory: Path, origin: str) -> None:
        import tempfile  # an agent that waits holds none of it

        self._origin = origin
        self._directory = directory
        self.size = 0
        self._synced = 0
        try:
            with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
                self._file = OpenFile(os.dup(file.fileno()), origin)
        except OSError as error:
            raise DataError(self._refused(error)) from error

    def append(self, blob: memoryview) -> None:
        """Raises `DataError` where the disk has no room."""
        try:
            while len(blob):
                count = os.pwrite(self._file.descriptor, blob, self.size)
                self.size += count
                blob = blob[count:]
            if self.size - self._synced >= _SYNCED:
                self._forget_written()
        except OSError as error:
            raise DataError(self._refused(error)) from error

    def finish(self) -> OpenFile:
        """The file, to be read. Raises `DataError`."""
        try:
            self._forget_written()
        except OSError as error:
            raise DataError(self._refused(error)) from error
        return self._file

    def _forget_written(self) -> None:
        os.fdatasync(self._file.descriptor)
        os.posix_fadvise(self._file.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        self._synced = self.size

    def _refused(self, error: OSError) -> str:
        return (
            f"{self._origin}: its examples do not fit into memory, and {path_text(self._directory)} takes no working "
            f"file of them ({error.strerror}); free space, or give this device fewer"
        )


@dataclass(frozen=True)
class Room:
    """Where examples may be: in `memory_bytes` of memory, and what takes more in a file in `directory`, if there is
    one."""

    memory_bytes: int
    directory: Path | None = None

    @classmethod
    def of_device(cls, directory: Path) -> Room:
        """The room that this machine has, with a directory for working files."""
        return cls(min(MAX_BYTES, int(device_memory_mb() * 1e6 * _MEMORY_SHARE)), directory)

    @property
    def most_bytes(self) -> int:
        """Bytes of examples that there may be at all."""
        return self.memory_bytes if self.directory is None else MAX_STORED_BYTES

    def holds(self, size: int) -> bool:
        """True if so many bytes may be in memory."""
        return size <= self.memory_bytes

    def working_file(self, size: int, origin: str) -> WorkingFile:
        """A file for `size` bytes. Raises `DataError` where there is no directory, or not so much room in it."""
        if self.directory is None:
            raise DataError(f"{origin}: more than {self.memory_bytes >> 20} MiB in memory; split the file")
        try:
            free = shutil.disk_usage(self.directory).free
        except OSError as error:
            raise DataError(f"{path_text(self.directory)}: {error.strerror}; mend the directory") from error
        if size > free * _DISK_SHARE:
            raise DataError(
                f"{origin}: its examples take {size >> 20} MiB, which do not fit into memory, and of "
                f"{path_text(self.directory)}'s {free >> 20} MiB half may be taken; free space, give this device fewer "
                "examples, or save them with numpy.savez, uncompressed, which is read where it is"
            )
        return WorkingFile(self.directory, origin)


IN_MEMORY = Room(MAX_BYTES)
"""No disk: for tools on workstations, and whoever needs arrays."""
