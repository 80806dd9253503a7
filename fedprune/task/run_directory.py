"""The contents of a run's directory: the aggregator writes it, the exporter reads it."""

from __future__ import annotations

TASK = "task.fedtask"
HELD_OUT = "held-out.npz"
BOOK = "book.sqlite"
CHECKPOINTS = "checkpoints"
UPDATES = "updates"
STATISTICS = "statistics"
"""What devices give of their examples before the first round; emptied once that is pooled."""
POOLED = "statistics.json"
"""What they make together."""
