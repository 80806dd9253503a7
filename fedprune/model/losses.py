"""The losses that a task may train with, by Keras' names, and what they are of given outputs.

Outputs are float32 `[examples, *places, outputs]`: a classifier has no places, a tagger has one for each step, what
labels pixels one for each. What labels are, a loss says by its `LabelForm`. Losses and accuracies are means over
examples and places, as Keras' are. A new loss is a name in `Loss` and a `LossRule` here, a loss of Keras' in
`fedprune.keras.model`, and a rule for the training graph in `fedprune.graph.losses`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedprune.model.tensors import Array

Labels = NDArray[np.int64] | NDArray[np.float32]
_Wide = NDArray[np.float64]
_Floats = TypeVar("_Floats", Array, _Wide)

_PART_SCALARS = 2**20
"""Targets that are looked at together, where all of them may need more memory than there is."""

_EPSILON = 1e-7
"""Keras' own: how near to 0 and 1 it takes a probability."""


class LabelForm(Enum):
    """The form that a loss takes labels in. All but class numbers are float32 `[examples, *places, outputs]`."""

    CLASS_NUMBERS = "int64 [examples, *places]: class numbers from 0"
    PROBABILITIES = "one-hot rows, or others of probabilities"
    BITS = "zeros and ones"
    NUMBERS = "any numbers"


@dataclass(frozen=True)
class LossRule:
    """All that there is to know of a loss. Functions take outputs `[rows, outputs]`, their labels, and whether outputs
    are logits.

    `activation` is what a model ends in whose outputs are no logits; None if the loss takes outputs as they are.
    """

    labels: LabelForm
    fewest_outputs: int
    activation: Literal["softmax", "sigmoid"] | None
    mean_loss: Callable[[_Wide, Labels, bool], float]

    def classes(self, outputs: int) -> int:
        """The number of classes that an example's labels are of, if the model has so many `outputs`; 0 if an example
        has no class of its own."""
        if self.activation == "sigmoid":
            return 2 if outputs == 1 else 0
        return outputs if self.activation == "softmax" else 0


class Loss(StrEnum):
    """The losses, by the names that Keras and `task.toml` have for them."""

    SPARSE_CATEGORICAL_CROSSENTROPY = "sparse_categorical_crossentropy"
    CATEGORICAL_CROSSENTROPY = "categorical_crossentropy"
    BINARY_CROSSENTROPY = "binary_crossentropy"
    MEAN_SQUARED_ERROR = "mean_squared_error"

    @property
    def rule(self) -> LossRule:
        return _RULES[self]


@dataclass(frozen=True)
class Objective:
    """A loss, what it is computed from, and how much it counts.

    `from_logits`: a crossentropy applies its softmax or sigmoid itself. The loss of a model is the sum of those of its
    outputs, each times its `weight` (Keras' ``loss_weights``). `label_smoothing` is the part of a target that is spread
    over all classes alike (Szegedy et al. 2016, "Rethinking the Inception architecture", section 7), in training with
    adjusted logits as `edge_agent.logit_adjustment` says; class numbers are smoothed as their one-hot rows are.
    `class_weights`, one for each class, say how much examples of a class count in training; none: all count alike.
    `logit_adjustment` is tau of Menon et al. 2021: in training a crossentropy is that of logits to which each device
    adds tau times the logarithms of its classes' frequencies (see `edge_agent.logit_adjustment`); nothing else adds
    them.

    Example:
        >>> objective = Objective(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, from_logits=True)
        >>> outputs, labels = np.array([[2.0, 0.0], [0.0, 1.0]], np.float32), np.array([0, 0])
        >>> round(objective.mean_loss(outputs, labels), 4)
        0.7201
    """

    loss: Loss
    from_logits: bool
    weight: float = 1.0
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    logit_adjustment: float = 0.0

    def mean_loss(self, outputs: Array, labels: Labels) -> float:
        """The loss as tf_keras defines it, the mean over examples and places; crossentropies are in nats.

        It is smoothed, and neither weighted nor are its examples. NaN where outputs are not finite.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            rows, labels = self._rows(outputs, labels)
            mean_loss = self.loss.rule.mean_loss
            if self.label_smoothing:
                labels = self._smooth(self.targets(labels, rows.shape[-1]))
                mean_loss = _crossentropy if self.loss.rule.activation == "softmax" else _binary_crossentropy
            return mean_loss(rows.astype(np.float64), labels, self.from_logits)

    def constant_loss(self, labels: Labels, outputs: int) -> float:
        """The loss of the best answer that is the same for all examples: what a model comes to that knows nothing.

        Args:
            labels: as `mean_loss` takes them.
            outputs: how many the model has for a place.

        Example:
            >>> objective = Objective(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, from_logits=True)
            >>> round(objective.constant_loss(np.array([0, 1, 1, 0]), 2), 4)
            0.6931
        """
        size = max(_PART_SCALARS // (labels[0].size * outputs), 1)
        parts = [labels[start : start + size] for start in range(0, len(labels), size)]
        total = sum(self.targets(part, outputs).sum(axis=0, dtype=np.float64) for part in parts)
        answer = self._smooth(total / len(labels))
        activation = self.loss.rule.activation
        if self.from_logits and activation is not None:
            p = np.clip(answer, _EPSILON, 1.0 - _EPSILON)
            answer = np.log(p) - (np.log1p(-p) if activation == "sigmoid" else 0.0)
        same = answer.astype(np.float32)
        losses = (self.mean_loss(np.broadcast_to(same, (len(part), *same.shape)), part) * len(part) for part in parts)
        return math.fsum(losses) / len(labels)

    @property
    def ceiling(self) -> float:
        """The loss of an answer that is certain and wrong, in nats: no loss is larger. Infinite where nothing clips."""
        clips = self.loss.rule.activation is not None and not self.from_logits
        return -math.log(_EPSILON) if clips else math.inf

    def targets(self, labels: Labels, outputs: int) -> Array:
        """Labels as a training graph takes them, float32 `[examples, *places, outputs]`: class numbers become one-hot
        rows. The graph smooths them."""
        if self.loss.rule.labels is LabelForm.CLASS_NUMBERS:
            return one_hot(labels, outputs)
        return np.asarray(labels, np.float32)

    def smoothing_of(self, outputs: int) -> tuple[float, float]:
        """By what a target is multiplied, and what is added then."""
        return 1.0 - self.label_smoothing, self.label_smoothing / self._classes(outputs)

    def shift_of(self, spread: Array) -> Array:
        """What is added to targets, before they are smoothed, that the part of them which is spread over the classes is
        spread like `spread`, and not over all alike.

        Args:
            spread: probabilities `[outputs]`: of the classes of a softmax, of each sigmoid.

        Example:
            >>> objective = Objective(Loss.CATEGORICAL_CROSSENTROPY, from_logits=True, label_smoothing=0.5)
            >>> (np.float32([0, 1]) + objective.shift_of(np.float32([0.75, 0.25]))) * 0.5 + 0.25
            array([0.375, 0.625], dtype=float32)
        """
        kept = 1.0 - self.label_smoothing
        shift = (spread - 1.0 / self._classes(len(spread))) * self.label_smoothing / kept
        return shift.astype(np.float32)

    def _classes(self, outputs: int) -> int:
        return outputs if self.loss.rule.activation == "softmax" else 2

    def example_weights(self, labels: Labels, outputs: int) -> Array:
        """The weight of each example's class, float32 `[examples]`, as Keras' ``class_weight`` gives it.

        Args:
            labels: as `mean_loss` takes them, of an output without places.
        """
        if not self.class_weights:
            return np.ones(len(labels), np.float32)
        one_for_each = self.loss.rule.labels is LabelForm.CLASS_NUMBERS or outputs == 1
        classes = labels.reshape(len(labels)).astype(np.int64) if one_for_each else labels.argmax(axis=-1)
        weights: Array = np.asarray(self.class_weights, np.float32)[classes]
        return weights

    def _smooth(self, targets: _Floats) -> _Floats:
        """Targets `[..., outputs]`, smoothed."""
        factor, added = self.smoothing_of(targets.shape[-1])
        return targets * factor + added if self.label_smoothing else targets

    def _rows(self, outputs: Array, labels: Labels) -> tuple[Array, Labels]:
        """Both with their places one below the other: `[rows, outputs]`, and class numbers `[rows]`."""
        rows = outputs.reshape(-1, outputs.shape[-1])
        one_for_each = self.loss.rule.labels is LabelForm.CLASS_NUMBERS
        return rows, labels.reshape(-1 if one_for_each else rows.shape)


def one_hot(classes: NDArray[np.generic], outputs: int) -> Array:
    """Class numbers `[examples, *places]` as float32 `[examples, *places, outputs]`."""
    return np.equal(_column(classes), np.arange(outputs)).astype(np.float32)


def _sparse_crossentropy(outputs: _Wide, labels: Labels, from_logits: bool) -> float:
    return -float(np.take_along_axis(_log_probabilities(outputs, from_logits), _column(labels), axis=1).mean())


def _crossentropy(outputs: _Wide, labels: Labels, from_logits: bool) -> float:
    return -float((labels * _log_probabilities(outputs, from_logits)).sum(axis=1).mean())


def _binary_crossentropy(outputs: _Wide, labels: Labels, from_logits: bool) -> float:
    return -float(_log_likelihood(outputs, labels.astype(np.float64), from_logits).mean())


def _squared_error(outputs: _Wide, labels: Labels, from_logits: bool) -> float:  # noqa: ARG001 - there are no logits
    return float(np.square(outputs - labels).mean())


_RULES = {
    Loss.SPARSE_CATEGORICAL_CROSSENTROPY: LossRule(
        labels=LabelForm.CLASS_NUMBERS,
        fewest_outputs=2,
        activation="softmax",
        mean_loss=_sparse_crossentropy,
    ),
    Loss.CATEGORICAL_CROSSENTROPY: LossRule(
        labels=LabelForm.PROBABILITIES,
        fewest_outputs=2,
        activation="softmax",
        mean_loss=_crossentropy,
    ),
    Loss.BINARY_CROSSENTROPY: LossRule(
        labels=LabelForm.BITS,
        fewest_outputs=1,
        activation="sigmoid",
        mean_loss=_binary_crossentropy,
    ),
    Loss.MEAN_SQUARED_ERROR: LossRule(
        labels=LabelForm.NUMBERS,
        fewest_outputs=1,
        activation=None,
        mean_loss=_squared_error,
    ),
}


def _log_probabilities(outputs: _Wide, from_logits: bool) -> _Wide:
    if not from_logits:
        return np.log(np.clip(outputs, _EPSILON, 1.0))
    shifted: _Wide = outputs - outputs.max(axis=1, keepdims=True)
    log_sum: _Wide = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted - log_sum


def _log_likelihood(outputs: _Wide, labels: _Wide, from_logits: bool) -> _Wide:
    """Of zeros and ones, for each output: y log p + (1 - y) log(1 - p)."""
    if from_logits:
        return labels * outputs - np.maximum(outputs, 0.0) - np.log1p(np.exp(-np.abs(outputs)))
    p = np.clip(outputs, _EPSILON, 1.0 - _EPSILON)
    return labels * np.log(p + _EPSILON) + (1.0 - labels) * np.log(1.0 - p + _EPSILON)


def _column(labels: NDArray[np.generic]) -> NDArray[np.int64]:
    return np.asarray(labels, np.int64)[..., np.newaxis]
