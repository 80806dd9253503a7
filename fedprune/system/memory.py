"""Memory goes back to the system when a large array ends, and threads do not each keep a heap of their own.

glibc learns from arrays that ended to keep those of up to 32 MB on its heaps, one for each thread, where the next ones
do not always fit: a process that trained a model of 100 MB grew by 20 to 50 MB.
"""

from __future__ import annotations

import ctypes

_MMAP_THRESHOLD = -3
"""The parameter's number in glibc's malloc.h."""
_LARGE_BYTES = 4 * 2**20
"""Larger than what a training step makes and drops again: new pages cost time."""
_ARENA_MAX = -8
"""The parameter's number, too."""
_HEAPS = 2
"""Of a process whose threads hand each other what they allocate: what one frees the others can use."""


def return_large_arrays() -> None:
    """Have this process's large arrays mapped one by one, from now on. Without glibc nothing is changed."""
    _tell_glibc(_MMAP_THRESHOLD, _LARGE_BYTES)


def share_heaps() -> None:
    """Have the threads that this process starts from now on share heaps. Without glibc nothing is changed."""
    _tell_glibc(_ARENA_MAX, _HEAPS)


def return_unused_pages() -> None:
    """Have what is free on this process's heaps go back to the system: what its imports needed is. Only glibc can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _tell_glibc(parameter: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(parameter, value)
