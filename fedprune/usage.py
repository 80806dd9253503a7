"""What this process uses, and what there is, as the kernel reports it."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path


def peak_memory_mb() -> float:
    """The high-water mark of resident memory, in MB (10^6 bytes).

    Linux's VmHWM is preferred: ru_maxrss is inherited from the parent across exec.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    except (OSError, IndexError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def device_memory_mb() -> float:
    """The device's memory, in MB (10^6 bytes)."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
