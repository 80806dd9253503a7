"""Examples: loading them, checking them, and sharing them out over agents."""

from __future__ import annotations

from fedprune.data.dataset import Dataset

__all__ = ["Dataset"]
