"""Resources that this process uses, and those that there are, as the kernel reports them."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


def peak_memory_mb() -> float:
    """The high-water mark of this process's resident memory, in MB (10^6 bytes).

    Linux's VmHWM is preferred: ru_maxrss is inherited from the parent across exec.
    """
    try:
        return high_water_mark_mb(os.getpid())
    except (OSError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def high_water_mark_mb(pid: int) -> float:
    """Linux's VmHWM of a process, in MB. Raises `OSError` without /proc or the process, `ValueError` once it ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return kilobytes * 1024 / 1e6


@dataclass(frozen=True)
class Activity:
    """A process so far: the seconds of processor that it has used, and whether it runs, or would if it got one."""

    processor_s: float
    waits_for_processor: bool


def activity_of(pid: int) -> Activity | None:
    """Another process's activity as Linux' /proc/PID/stat tells it; None without that, or once the process ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    user, system = fields[11:13]
    return Activity((int(user) + int(system)) / os.sysconf("SC_CLK_TCK"), fields[0] == "R")


def resident_mb(pid: int) -> tuple[float, float]:
    """Linux's resident memory of a process, and its proportional share of that, in which a page counts by how many map
    it; in MB. Raises `OSError` without /proc or the process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kilobytes = {line.split()[0]: int(line.split()[1]) for line in lines[1:]}
    return kilobytes["Rss:"] * 1024 / 1e6, kilobytes["Pss:"] * 1024 / 1e6


def device_memory_mb() -> float:
    """The memory that this process may have, in MB (10^6 bytes): the device's, or its control group's if that is less,
    as of a container or a service with `MemoryMax`."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_group_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]) / 1e6


def bytes_written(root: Path = Path("/")) -> int | None:
    """Bytes that this process has had written to disks since it began; None where the kernel does not count them.

    What is in memory alone (tmpfs) does not count; what was deleted before it reached the disk does.
    """
    try:
        lines = (root / "proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("write_bytes:")), None)


def _group_limits(own_groups: Path, mounted: Path) -> Iterator[int]:
    """Bytes that the process's control groups, and those above them, may have. A container sees its own as the root."""
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = (mounted / "memory", "memory.limit_in_bytes") if controllers else (mounted, "memory.max")
        group = root / path.lstrip("/")
        for place in (group, *group.parents):
            if place.is_relative_to(root):
                yield from _limit_in(place / name)


def _limit_in(file: Path) -> Iterator[int]:
    """The number in a file, unless there is none, or "max"."""
    with suppress(OSError, ValueError):
        yield int(file.read_text())
