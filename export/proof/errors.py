"""How a training graph fails its proof."""

from __future__ import annotations

from fedprune.errors import TaskError


class NotProven(TaskError):
    """The network cannot be trained without TensorFlow; the keras trainer can still train it."""
