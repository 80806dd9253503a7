"""The losses that a task may train with, by Keras' names, and what they are of given outputs.

Labels are, for each loss, what Keras takes: int64 `[examples]` class numbers for the sparse one, else float32
`[examples, outputs]`. Outputs are float32 `[examples, outputs]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Array

Labels = NDArray[np.int64] | NDArray[np.float32]
_Wide = NDArray[np.float64]

_EPSILON = 1e-7
"""Keras' own: how near to 0 and 1 it takes a probability."""


class Loss(StrEnum):
    """What is minimised, and so what labels are: class numbers, rows that sum to 1, zeros and ones, any numbers."""

    SPARSE_CATEGORICAL_CROSSENTROPY = "sparse_categorical_crossentropy"
    CATEGORICAL_CROSSENTROPY = "categorical_crossentropy"
    BINARY_CROSSENTROPY = "binary_crossentropy"
    MEAN_SQUARED_ERROR = "mean_squared_error"

    @property
    def is_categorical(self) -> bool:
        """Whether outputs stand for classes, of which one is right."""
        return self in (Loss.SPARSE_CATEGORICAL_CROSSENTROPY, Loss.CATEGORICAL_CROSSENTROPY)

    @property
    def fewest_outputs(self) -> int:
        """How many outputs a model needs at least: two classes, or one number."""
        return 2 if self.is_categorical else 1


@dataclass(frozen=True)
class Objective:
    """A loss and what it is computed from. `from_logits`: a crossentropy applies its softmax or sigmoid itself."""

    loss: Loss
    from_logits: bool

    def mean_loss(self, outputs: Array, labels: Labels) -> float:
        """The loss as tf_keras defines it, the mean over the examples; crossentropies are in nats.

        NaN where outputs are not finite.
        """
        wide = outputs.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            if self.loss is Loss.MEAN_SQUARED_ERROR:
                return float(np.square(wide - labels).mean())
            if self.loss is Loss.BINARY_CROSSENTROPY:
                return -float(_log_likelihood(wide, labels.astype(np.float64), self.from_logits).mean())
            log_probabilities = _log_softmax(wide) if self.from_logits else np.log(np.clip(wide, _EPSILON, 1.0))
            if self.loss is Loss.CATEGORICAL_CROSSENTROPY:
                return -float((labels * log_probabilities).sum(axis=1).mean())
            return -float(np.take_along_axis(log_probabilities, _column(labels), axis=1).mean())

    def accuracy(self, outputs: Array, labels: Labels) -> float | None:
        """The fraction of right answers; of a mean squared error there is none.

        Right is, for classes, that the largest output is the label's; else each output that is on its label's side
        of 1/2 (of 0 for logits) counts, as in Keras' binary accuracy.
        """
        match self.loss:
            case Loss.SPARSE_CATEGORICAL_CROSSENTROPY:
                return float(np.mean(outputs.argmax(axis=1) == labels))
            case Loss.CATEGORICAL_CROSSENTROPY:
                return float(np.mean(outputs.argmax(axis=1) == labels.argmax(axis=1)))
            case Loss.BINARY_CROSSENTROPY:
                return float(np.mean((outputs > (0.0 if self.from_logits else 0.5)) == labels))
            case Loss.MEAN_SQUARED_ERROR:
                return None

    def targets(self, labels: Labels, outputs: int) -> Array:
        """Labels as a training graph takes them, float32 `[examples, outputs]`: class numbers become one-hot rows."""
        if self.loss is Loss.SPARSE_CATEGORICAL_CROSSENTROPY:
            return one_hot(labels, outputs)
        return np.asarray(labels, np.float32)


def one_hot(classes: NDArray[np.generic], outputs: int) -> Array:
    """Class numbers `[examples]` as float32 `[examples, outputs]`."""
    return np.equal(_column(classes), np.arange(outputs)).astype(np.float32)


def _log_softmax(logits: _Wide) -> _Wide:
    shifted: _Wide = logits - logits.max(axis=1, keepdims=True)
    log_sum: _Wide = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted - log_sum


def _log_likelihood(outputs: _Wide, labels: _Wide, from_logits: bool) -> _Wide:
    """Of zeros and ones, for each output: y log p + (1 - y) log(1 - p)."""
    if from_logits:
        return labels * outputs - np.maximum(outputs, 0.0) - np.log1p(np.exp(-np.abs(outputs)))
    p = np.clip(outputs, _EPSILON, 1.0 - _EPSILON)
    return labels * np.log(p + _EPSILON) + (1.0 - labels) * np.log(1.0 - p + _EPSILON)


def _column(labels: NDArray[np.generic]) -> NDArray[np.int64]:
    return np.asarray(labels, np.int64)[:, np.newaxis]
