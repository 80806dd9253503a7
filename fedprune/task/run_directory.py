"""What a run's directory holds: the aggregator writes it, the exporter reads it."""

from __future__ import annotations

TASK = "task.fedtask"
HELD_OUT = "held-out.npz"
BOOK = "book.sqlite"
CHECKPOINTS = "checkpoints"
UPDATES = "updates"
