"""A cgroup with little memory, by the v1 controller: what runs in it is killed where it needs more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CONTROLLER = Path("/sys/fs/cgroup/memory")


class CgroupUnavailableError(Exception):
    """No such cgroup can be made here."""


@contextmanager
def small_cgroup(limit: int) -> Iterator[tuple[str, ...]]:
    """What to put before a command so that it runs with at most `limit` bytes of memory, page cache included.

    Pages that others have in the cache already, such as those of shared libraries, are not counted again. Whatever
    runs in it must have ended before the context does. Raises `CgroupUnavailableError`.
    """
    group = _parent() / f"fedprune-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        raise CgroupUnavailableError(f"{group}: {error.strerror}") from error
    try:
        _write(group / "memory.limit_in_bytes", str(limit))
        if (group / "memory.memsw.limit_in_bytes").exists():
            _write(group / "memory.memsw.limit_in_bytes", str(limit))
        yield ("sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"))
    finally:
        group.rmdir()


def _parent() -> Path:
    """The memory cgroup that this process is in."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(",") and (_CONTROLLER / path.lstrip("/")).is_dir():
            return _CONTROLLER / path.lstrip("/")
    raise CgroupUnavailableError("the kernel's cgroup v1 memory controller is not mounted")


def _write(file: Path, value: str) -> None:
    try:
        file.write_text(value)
    except OSError as error:
        raise CgroupUnavailableError(f"{file}: {error.strerror}") from error
