"""The bytes that updates may have."""

from __future__ import annotations

from fedprune.model.tensors import TensorTable

_UPDATE_OVERHEAD = 4096
"""Bytes an update may need beyond fp32 values and a bitmap: headers, scales and the bookkeeping of positions."""


def most_update_bytes(table: TensorTable) -> int:
    """Of an agent's update, at most."""
    return table.parameters * 9 // 2 + _UPDATE_OVERHEAD


def most_part_bytes(table: TensorTable) -> int:
    """Of a sub-gateway's partial sum, at most: six digits for each number, and headers."""
    return 48 * table.parameters + 32 * len(table) + _UPDATE_OVERHEAD
