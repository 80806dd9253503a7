"""The room that a device has for contents."""

from __future__ import annotations

from dataclasses import replace

from edge_agent.agent_state import Limits
from fedprune.system.disk import Directory
from fedprune.system.usage import device_memory_mb
from fedprune.wire.received_chunks import SUFFIX

_MEMORY_SHARE = 0.125
"""Of the device's memory that one content may take: it is there twice when it is put together, and decoded beside."""

_DISK_SHARE = 0.5
"""Of the free disk that a task bundle may take."""


def limits_here(disk: Directory, chunk_bytes: int) -> Limits:
    """This device's limits. Its broker takes chunks of `chunk_bytes` at most."""
    limits = limits_of(device_memory_mb() * 1e6, disk.free() + _bytes_received(disk))
    return replace(limits, chunk_bytes=chunk_bytes)


def limits_of(memory_bytes: float, free_disk_bytes: float) -> Limits:
    """Contents are held in memory while they come; task bundles are then kept on the disk."""
    in_memory = int(memory_bytes * _MEMORY_SHARE)
    return Limits(max_task_bytes=min(in_memory, int(free_disk_bytes * _DISK_SHARE)), max_model_bytes=in_memory)


def _bytes_received(disk: Directory) -> int:
    """What contents take that were on their way to the process before this one: it is theirs, or free again soon."""
    return sum(file.stat().st_size for file in disk.path.glob(f"*{SUFFIX}"))
