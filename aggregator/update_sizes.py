"""The bytes that updates may have."""

from __future__ import annotations

from fedprune.model.tensors import TensorTable
from fedprune.task.bundle import Task
from fedprune.task.tallies import most_tallies_bytes

_UPDATE_OVERHEAD = 4096
"""Bytes an update may need beyond fp32 values and a bitmap: headers, scales and the bookkeeping of positions."""


def most_update_bytes(table: TensorTable) -> int:
    """Of an agent's update, at most."""
    return table.parameters * 9 // 2 + _UPDATE_OVERHEAD


def most_part_bytes(task: Task) -> int:
    """Of a sub-gateway's partial sum, at most: six digits for each number, tallies, and headers."""
    return 48 * task.table.parameters + 32 * len(task.table) + most_tallies_bytes(task) + _UPDATE_OVERHEAD
