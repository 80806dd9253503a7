"""The metrics that a task is judged by beside its loss, by Keras' names where Keras has one.

A metric is a *tally*: an array of counts or sums that is taken of some examples, and whose sum with those of others is
that of all of them. So batch by batch, over agents, and over a whole file are one thing, and the value is computed
once, in the end. Outputs are those of `fedprune.model.losses`, float32 `[examples, *places, outputs]`; places count as
examples do. A new metric is a name in `Metric` and a `_Rule` here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fedprune.model.losses import LabelForm, Labels, Loss, Objective
from fedprune.model.tensors import Array

Tally = NDArray[np.int64] | NDArray[np.float64]
"""Counts are int64, sums of numbers float64. Tallies of one metric and one model have one shape."""

MOST_METRICS = 8
"""Metrics of an output."""

TOP_K = 5
"""The k of `TOP_K_CATEGORICAL_ACCURACY`: Keras' default."""

AUC_BINS = 4096
"""Bins of the histogram of scores."""

_LARGEST_LOG_ODDS = 16.0
"""Scores within e^-16 of 0 or 1, which float32 hardly tells apart, share the outermost bins."""

_PART_SCALARS = 2**20
"""Outputs that are looked at together, since what is computed of them takes several times their memory."""

_CLASSES = frozenset({LabelForm.CLASS_NUMBERS, LabelForm.PROBABILITIES})
_DISCRETE = _CLASSES | {LabelForm.BITS}


class Metric(StrEnum):
    """The metrics, by their names in `task.toml`. Of probabilities as labels, the largest is the class."""

    ACCURACY = "accuracy"
    """The fraction of right answers: for classes that the largest output is the label's, for zeros and ones that an
    output is on its label's side of 1/2 (of 0 for logits)."""
    TOP_K_CATEGORICAL_ACCURACY = "top_k_categorical_accuracy"
    """The fraction of places whose class is among the `TOP_K` largest outputs; equal ones all count as larger or none
    does, whichever is better, as in TensorFlow."""
    AUC = "auc"
    """The area under the ROC curve: how often a positive has a higher score than a negative. All outputs are taken
    together (micro average), as Keras does; of two classes the score is that of class 1."""
    F1_SCORE = "f1_score"
    """2 TP / (2 TP + FP + FN), the mean over classes that occur in labels or answers (macro average), as scikit-learn
    has it. Of zeros and ones each output is a class, the ones."""
    MEAN_IOU = "mean_iou"
    """Intersection over union, TP / (TP + FP + FN), the mean over classes that occur, as Keras' MeanIoU. A single
    output of zeros and ones has two classes, of several each is one, the ones."""
    MEAN_ABSOLUTE_ERROR = "mean_absolute_error"
    ROOT_MEAN_SQUARED_ERROR = "root_mean_squared_error"

    @property
    def larger_is_better(self) -> bool:
        """True for fractions from 0 to 1, False for errors."""
        return LabelForm.NUMBERS not in _RULES[self].labels

    def tally(self, outputs: Array, labels: Labels, objective: Objective) -> Tally:
        """Take the tally of some examples.

        Args:
            outputs: float32 `[examples, *places, outputs]`.
            labels: as `Objective.mean_loss` takes them.
            objective: says what labels are, and whether outputs are logits.

        Example:
            >>> objective = Objective(Loss("sparse_categorical_crossentropy"), from_logits=True)
            >>> outputs, labels = np.array([[2.0, 0.0], [0.0, 1.0]], np.float32), np.array([0, 0])
            >>> tally = Metric.ACCURACY.tally(outputs, labels, objective)
            >>> tally.tolist(), Metric.ACCURACY.result(tally + tally)
            ([1, 2], 0.5)
        """
        rows = outputs.reshape(-1, outputs.shape[-1])
        wanted = _labels_of(labels, rows, objective.loss.rule.labels)
        size = max(_PART_SCALARS // rows.shape[1], 1)
        rule = _RULES[self]
        parts = (
            rule.tally(_Answers(rows[start : start + size], wanted[start : start + size], objective))
            for start in range(0, max(len(rows), 1), size)
        )
        total = next(parts)
        for part in parts:
            total = total + part
        return total

    def form(self, loss: Loss, outputs: int) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
        """The dtype and the shape of the tallies that models with this loss and so many outputs have."""
        rule = _RULES[self]
        dtype = np.float64 if LabelForm.NUMBERS in rule.labels else np.int64
        return np.dtype(dtype), rule.shape(loss.rule.labels, outputs)

    def result(self, tally: Tally) -> float | None:
        """The metric of the examples that were tallied; None where they define none (AUC of one class), or their
        outputs were not finite."""
        with np.errstate(invalid="ignore", over="ignore"):
            value = _RULES[self].value(tally)
        return value if value is not None and math.isfinite(value) else None

    def is_plausible(self, tally: Tally) -> bool:
        """False for a tally, of numbers from 0, that no examples have: of more right answers than there are."""
        value = self.result(tally)
        return value is None or not self.larger_is_better or value <= 1.0


def default_metrics(loss: Loss) -> tuple[Metric, ...]:
    """The metrics of a task that names none."""
    return _DEFAULTS[loss.rule.labels]


def why_unfit(metrics: Sequence[Metric], loss: Loss, outputs: int) -> str:
    """The reason why a model with this loss and so many outputs cannot have these metrics; empty if it can."""
    for metric in metrics:
        rule = _RULES[metric]
        if loss.rule.labels not in rule.labels:
            fitting = " or ".join(other for other in Loss if other.rule.labels in rule.labels)
            return f"metric {metric} does not go with the loss {loss}, but with {fitting}"
        if outputs < rule.fewest_outputs:
            return f"metric {metric} needs {rule.fewest_outputs} outputs, and the model has {outputs}"
    return "a metric is named twice" if len(set(metrics)) < len(metrics) else ""


def metric_name(metric: Metric, output: str) -> str:
    """The name of an output's metric among all of a task: ``OUTPUT/METRIC``, or the metric's own where the output is
    the only one, which has no name.

    Example:
        >>> metric_name(Metric.AUC, "there"), metric_name(Metric.AUC, "")
        ('there/auc', 'auc')
    """
    return f"{output}/{metric}" if output else str(metric)


def metric_named(name: str) -> Metric:
    """The metric that `metric_name` has named."""
    return Metric(name.rpartition("/")[2])


def metrics_shown(metrics: Mapping[str, float | None]) -> list[str]:
    """Names with values, for people; without those that are not defined."""
    return [
        f"{name} {value:.3f}" if metric_named(name).larger_is_better else f"{name} {value:.4g}"
        for name, value in metrics.items()
        if value is not None
    ]


_DEFAULTS: Mapping[LabelForm, tuple[Metric, ...]] = {
    LabelForm.CLASS_NUMBERS: (Metric.ACCURACY,),
    LabelForm.PROBABILITIES: (Metric.ACCURACY,),
    LabelForm.BITS: (Metric.ACCURACY, Metric.AUC),
    LabelForm.NUMBERS: (Metric.ROOT_MEAN_SQUARED_ERROR, Metric.MEAN_ABSOLUTE_ERROR),
}


@dataclass(frozen=True, eq=False)
class _Answers:
    """A part of a model's outputs, float32 `[rows, outputs]`, with its labels: class numbers `[rows]`, or
    `[rows, outputs]` of zeros and ones, or of any numbers."""

    outputs: Array
    labels: NDArray[np.int64] | Array
    objective: Objective

    @property
    def ones(self) -> NDArray[np.bool_]:
        """The outputs that say one, `[rows, outputs]`."""
        return self.outputs > (0.0 if self.objective.from_logits else 0.5)

    @property
    def are_classes(self) -> bool:
        return self.objective.loss.rule.labels in _CLASSES


def _labels_of(labels: Labels, rows: Array, form: LabelForm) -> NDArray[np.int64] | Array:
    if form is LabelForm.CLASS_NUMBERS:
        return cast(NDArray[np.int64], labels.reshape(-1))
    numbers = cast(Array, labels.reshape(rows.shape))
    return numbers.argmax(axis=1) if form is LabelForm.PROBABILITIES else numbers


def _hits(answers: _Answers) -> Tally:
    right = answers.outputs.argmax(axis=1) if answers.are_classes else answers.ones
    return _counted(right == answers.labels)


def _hits_in_top_k(answers: _Answers) -> Tally:
    own = np.take_along_axis(answers.outputs, answers.labels.astype(np.int64)[:, np.newaxis], axis=1)
    return _counted(((answers.outputs > own).sum(axis=1) < TOP_K) & np.isfinite(own[:, 0]))


def _counted(hits: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.array([np.count_nonzero(hits), hits.size], np.int64)


def _ratio(tally: Tally) -> float | None:
    """Of the two entries, the first over the second."""
    return float(tally[0] / tally[1]) if tally[1] else None


def _score_histograms(answers: _Answers) -> Tally:
    """Negatives and positives in each bin, int64 `[2, AUC_BINS]`. Bins are equal steps of the scores' log odds, which
    is fine near 0 and 1, where the scores of trained models are."""
    log_odds = _log_odds(answers)
    positives = answers.labels == 1
    if answers.are_classes:
        classes = range(1, 2) if log_odds.shape[1] == 1 else range(log_odds.shape[1])
        positives = answers.labels[:, np.newaxis] == np.array(classes)
    scaled = (log_odds + _LARGEST_LOG_ODDS) * (AUC_BINS / (2 * _LARGEST_LOG_ODDS))
    bins = np.clip(np.nan_to_num(scaled, nan=0.0), 0, AUC_BINS - 1).astype(np.int64)
    return np.stack([np.bincount(bins[positives == sign], minlength=AUC_BINS) for sign in (False, True)])


def _log_odds(answers: _Answers) -> NDArray[np.float64]:
    """log p - log(1 - p) of each score, `[rows, outputs]`; of two classes that of class 1 alone, `[rows, 1]`."""
    outputs = answers.outputs.astype(np.float64)
    if answers.are_classes and outputs.shape[1] == 2:
        first, second = outputs[:, :1], outputs[:, 1:]
        return second - first if answers.objective.from_logits else _odds_of(second)
    if not answers.objective.from_logits:
        return _odds_of(outputs)
    if not answers.are_classes:
        return outputs
    powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return _odds_of(powers / powers.sum(axis=1, keepdims=True))


def _odds_of(p: NDArray[np.float64]) -> NDArray[np.float64]:
    smallest = math.exp(-2 * _LARGEST_LOG_ODDS)
    return np.log(np.maximum(p, smallest)) - np.log(np.maximum(1.0 - p, smallest))


def _area(tally: Tally) -> float | None:
    """The Mann-Whitney statistic over the number of pairs, which is the area under the ROC curve (Hanley and McNeil
    1982, "The meaning and use of the area under a receiver operating characteristic (ROC) curve", section II). Pairs in
    one bin count half, so that it is off by at most half of their share, and usually by far less."""
    negatives, positives = tally.astype(np.float64)
    pairs = negatives.sum() * positives.sum()
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / pairs) if pairs else None


def _class_counts(answers: _Answers) -> Tally:
    """TP, FP and FN of each class, int64 `[3, classes]`."""
    if not answers.are_classes:
        said, true = answers.ones, answers.labels == 1
        return np.stack([(a & b).sum(axis=0) for a, b in ((said, true), (said, ~true), (~said, true))]).astype(np.int64)
    return _confusion(answers.outputs.argmax(axis=1), answers.labels.astype(np.int64), answers.outputs.shape[1])


def _counts_of_regions(answers: _Answers) -> Tally:
    """The same, but that zeros are a class too where there is one output of zeros and ones."""
    if answers.are_classes or answers.outputs.shape[1] > 1:
        return _class_counts(answers)
    return _confusion(answers.ones[:, 0].astype(np.int64), answers.labels[:, 0].astype(np.int64), 2)


def _confusion(said: NDArray[np.int64], true: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    hits, answered, there = (np.bincount(each, minlength=classes) for each in (true[said == true], said, true))
    return np.stack([hits, answered - hits, there - hits])


def _macro_f1(tally: Tally) -> float | None:
    hits, extra, missed = tally
    return _mean_ratio(2 * hits, 2 * hits + extra + missed)


def _mean_iou(tally: Tally) -> float | None:
    return _mean_ratio(tally[0], tally.sum(axis=0))


def _mean_ratio(parts: Tally, wholes: Tally) -> float | None:
    """The mean over classes that occur."""
    occur = wholes > 0
    return float(np.mean(parts[occur] / wholes[occur])) if occur.any() else None


def _absolute_errors(answers: _Answers) -> Tally:
    errors = np.abs(answers.outputs.astype(np.float64) - answers.labels)
    return np.array([errors.sum(), errors.size], np.float64)


def _squared_errors(answers: _Answers) -> Tally:
    errors = np.square(answers.outputs.astype(np.float64) - answers.labels)
    return np.array([errors.sum(), errors.size], np.float64)


def _root_of_ratio(tally: Tally) -> float | None:
    mean = _ratio(tally)
    return None if mean is None else math.sqrt(mean)


def _pair(form: LabelForm, outputs: int) -> tuple[int, ...]:  # noqa: ARG001 - the same for all
    return (2,)


def _two_histograms(form: LabelForm, outputs: int) -> tuple[int, ...]:  # noqa: ARG001 - the same for all
    return (2, AUC_BINS)


def _three_by_class(form: LabelForm, outputs: int) -> tuple[int, ...]:  # noqa: ARG001 - the same for all
    return (3, outputs)


def _three_by_region(form: LabelForm, outputs: int) -> tuple[int, ...]:
    return (3, max(outputs, 2) if form is LabelForm.BITS else outputs)


@dataclass(frozen=True)
class _Rule:
    """All that there is to know of a metric. `labels`: the forms that it goes with."""

    labels: frozenset[LabelForm]
    tally: Callable[[_Answers], Tally]
    value: Callable[[Tally], float | None]
    shape: Callable[[LabelForm, int], tuple[int, ...]] = _pair
    fewest_outputs: int = 1


_RULES = {
    Metric.ACCURACY: _Rule(_DISCRETE, _hits, _ratio),
    Metric.TOP_K_CATEGORICAL_ACCURACY: _Rule(_CLASSES, _hits_in_top_k, _ratio, fewest_outputs=TOP_K + 1),
    Metric.AUC: _Rule(_DISCRETE, _score_histograms, _area, _two_histograms),
    Metric.F1_SCORE: _Rule(_DISCRETE, _class_counts, _macro_f1, _three_by_class),
    Metric.MEAN_IOU: _Rule(_DISCRETE, _counts_of_regions, _mean_iou, _three_by_region),
    Metric.MEAN_ABSOLUTE_ERROR: _Rule(frozenset({LabelForm.NUMBERS}), _absolute_errors, _ratio),
    Metric.ROOT_MEAN_SQUARED_ERROR: _Rule(frozenset({LabelForm.NUMBERS}), _squared_errors, _root_of_ratio),
}
