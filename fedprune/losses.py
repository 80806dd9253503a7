"""The losses that a task may train with, by Keras' names."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Loss(StrEnum):
    """What is minimised, and so what labels are: class numbers, rows that sum to 1, zeros and ones, any numbers."""

    SPARSE_CATEGORICAL_CROSSENTROPY = "sparse_categorical_crossentropy"
    CATEGORICAL_CROSSENTROPY = "categorical_crossentropy"
    BINARY_CROSSENTROPY = "binary_crossentropy"
    MEAN_SQUARED_ERROR = "mean_squared_error"

    @property
    def fewest_outputs(self) -> int:
        """How many outputs a model needs at least: two classes, or one number."""
        return 2 if self in (Loss.SPARSE_CATEGORICAL_CROSSENTROPY, Loss.CATEGORICAL_CROSSENTROPY) else 1


@dataclass(frozen=True)
class Objective:
    """A loss and what it is computed from. `from_logits`: a crossentropy applies its softmax or sigmoid itself."""

    loss: Loss
    from_logits: bool
