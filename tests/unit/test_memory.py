"""A process that had large arrays gives their memory back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_ARRAYS = """
import os
import numpy as np
from pathlib import Path
from fedprune.system.memory import return_large_arrays

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

return_large_arrays()
np.ones(30_000_000, np.uint8)  # glibc takes its size for the largest that belongs on the heap
before = resident_mb()
arrays = [np.ones(16_000_000, np.uint8) for _ in range(10)]
del arrays[:-1]  # the last one would hold a heap of all
print(resident_mb() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps them")
def test_large_arrays_that_ended_take_no_memory() -> None:
    child = subprocess.run([sys.executable, "-c", _ARRAYS], capture_output=True, text=True, check=True)

    assert float(child.stdout) < 24.0
