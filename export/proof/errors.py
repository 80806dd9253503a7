"""How a training graph fails its proof."""

from __future__ import annotations

from fedprune.errors import TaskError


class NotProven(TaskError):
    """The network cannot be trained without TensorFlow; the keras trainer can still train it.

    `tensor` is the one whose gradient or new value differs, by its name in the tensor table, if it is one.
    """

    def __init__(self, message: str, tensor: str | None = None) -> None:
        super().__init__(message)
        self.tensor = tensor
