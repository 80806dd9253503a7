"""A cgroup with little memory, by the controller of v1 or v2: what runs in it is killed where it needs more."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")


class CgroupUnavailableError(Exception):
    """No such cgroup can be made here."""


@contextmanager
def small_cgroup(limit: int) -> Iterator[tuple[str, ...]]:
    """The words to put before a command so that it runs with at most `limit` bytes of memory, page cache included.

    Pages of files that are in the cache already are not counted again: `evict` them before. Whatever runs in it must
    have ended before the context does. Raises `CgroupUnavailableError`.
    """
    parent, memory, (swap, swap_limit) = _place(limit)
    group = parent / f"fedprune-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        raise CgroupUnavailableError(f"{group}: {error.strerror}") from error
    try:
        _write(group / memory, limit)
        if (group / swap).exists():
            _write(group / swap, swap_limit)
        prefix = ("sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"))
        joined = subprocess.run((*prefix, "true"), capture_output=True, text=True, check=False)
        if joined.returncode:
            raise CgroupUnavailableError(f"{group}: {' '.join(joined.stderr.split())}")
        yield prefix
    finally:
        group.rmdir()


def evict(paths: Iterable[Path]) -> None:
    """Drop files, and what is in directories, from the page cache, but for pages that a process has mapped."""
    os.sync()  # pages that are not on the disk yet would stay
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else (path,):
            if file.is_file():
                descriptor = os.open(file, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)


def _place(limit: int) -> tuple[Path, str, tuple[str, int]]:
    """A directory to make a cgroup in, its file for the limit, and the one for swap with what to write into it."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        parent = _V1 / path.lstrip("/")
        if "memory" in controllers.split(",") and parent.is_dir():
            return parent, "memory.limit_in_bytes", ("memory.memsw.limit_in_bytes", limit)
    # A v2 group that has processes can have no groups with a controller in it, so ours goes below the root.
    granted = _V2 / "cgroup.subtree_control"
    if granted.is_file() and "memory" in granted.read_text().split():
        return _V2, "memory.max", ("memory.swap.max", 0)
    raise CgroupUnavailableError("neither cgroup v1 nor v2 has a memory controller here")


def _write(file: Path, value: int) -> None:
    try:
        file.write_text(str(value))
    except OSError as error:
        raise CgroupUnavailableError(f"{file}: {error.strerror}") from error
