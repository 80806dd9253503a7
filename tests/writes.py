"""Writes of another process to the files below a directory, heard of as they happen: inotify(7)."""

from __future__ import annotations

import ctypes
import os
import select
import struct
from pathlib import Path
from types import TracebackType

from tests.patience import PATIENCE_S

_WRITTEN = 0x00000002 | 0x00000080 | 0x00000100
"""IN_MODIFY, IN_MOVED_TO and IN_CREATE."""

_HEAD = struct.Struct("iIII")
_READ_AT_ONCE = 1 << 16


class Writes:
    """Those that are made from now on, below the directories that are there now."""

    def __init__(self, root: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_CLOEXEC)
        for directory in (root, *(path for path in root.rglob("*") if path.is_dir())):
            if libc.inotify_add_watch(self._descriptor, os.fsencode(directory), _WRITTEN) < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch", str(directory))

    def __enter__(self) -> Writes:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        os.close(self._descriptor)

    def wait_for(self, count: int) -> None:
        """Return as the last of so many has begun."""
        while count > 0:
            readable, _, _ = select.select([self._descriptor], [], [], PATIENCE_S)
            assert readable, f"nothing is written, and {count} writes were waited for"
            events, offset = os.read(self._descriptor, _READ_AT_ONCE), 0
            while offset < len(events):
                *_, length = _HEAD.unpack_from(events, offset)
                offset += _HEAD.size + length
                count -= 1
