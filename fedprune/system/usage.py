"""Resources that this process uses, and those that there are, as the kernel reports them."""

from __future__ import annotations

import os
import resource
import sys
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


def device_memory_mb() -> float:
    """The device's memory, in MB (10^6 bytes)."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6


def bytes_written(root: Path = Path("/")) -> int | None:
    """Bytes that this process has had written to disks since it began; None where the kernel does not count them.

    What is in memory alone (tmpfs) does not count; what was deleted before it reached the disk does.
    """
    try:
        lines = (root / "proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("write_bytes:")), None)
