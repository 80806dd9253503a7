"""The contents of a run's directory: the aggregator writes it, the exporter reads it."""

from __future__ import annotations

TASK = "task.fedtask"
HELD_OUT = "held-out.npz"
BOOK = "book.sqlite"
CHECKPOINTS = "checkpoints"
UPDATES = "updates"
