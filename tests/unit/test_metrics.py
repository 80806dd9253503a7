"""Metrics: scikit-learn's and Keras' own, from tallies that add up over batches and agents."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    jaccard_score,
    mean_absolute_error,
    roc_auc_score,
    root_mean_squared_error,
    top_k_accuracy_score,
)

from fedprune.keras.stack import keras
from fedprune.model import metrics
from fedprune.model.losses import Labels, Loss, Objective
from fedprune.model.metrics import MOST_METRICS, Metric, default_metrics, why_unfit
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array

SPARSE, ONE_HOT, BINARY, SQUARED = (
    Loss.SPARSE_CATEGORICAL_CROSSENTROPY,
    Loss.CATEGORICAL_CROSSENTROPY,
    Loss.BINARY_CROSSENTROPY,
    Loss.MEAN_SQUARED_ERROR,
)
EXAMPLES, OUTPUTS = 2000, 8
CLASSES = (Keyed(0, "classes").integers(EXAMPLES) % np.uint64(OUTPUTS - 1)).astype(np.int64)  # the last never occurs
BITS = (Keyed(0, "bits").integers(EXAMPLES * OUTPUTS) % np.uint64(2)).astype(np.float32).reshape(EXAMPLES, OUTPUTS)
LABELS: dict[Loss, Labels] = {
    SPARSE: CLASSES,
    ONE_HOT: np.eye(OUTPUTS, dtype=np.float32)[CLASSES],
    BINARY: BITS,
    SQUARED: Keyed(0, "numbers").uniform(EXAMPLES * OUTPUTS, -6.0, 6.0).reshape(EXAMPLES, OUTPUTS),
}
NOISE = Keyed(0, "logits").uniform(EXAMPLES * OUTPUTS, -3.0, 3.0).reshape(EXAMPLES, OUTPUTS)


def logits_for(loss: Loss) -> Array:
    """Answers that are often right."""
    lean = {SPARSE: LABELS[ONE_HOT], ONE_HOT: LABELS[ONE_HOT], BINARY: BITS - 0.5, SQUARED: LABELS[SQUARED]}[loss]
    return (NOISE + 2 * lean).astype(np.float32)


def probabilities_for(loss: Loss) -> Array:
    logits = logits_for(loss).astype(np.float64)
    if loss is BINARY:
        return (1 / (1 + np.exp(-logits))).astype(np.float32)
    powers = np.exp(logits)
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def value(metric: Metric, outputs: Array, labels: Labels, loss: Loss, *, from_logits: bool = True) -> float | None:
    return metric.result(metric.tally(outputs, labels, Objective(loss, from_logits)))


def scikits(metric: Metric, loss: Loss) -> float:
    """scikit-learn's own, of the same answers."""
    logits, said = logits_for(loss), logits_for(loss).argmax(axis=1)
    ones, bits = logits > 0, BITS == 1
    match metric, loss:
        case Metric.ACCURACY, Loss.BINARY_CROSSENTROPY:
            return accuracy_score(bits.ravel(), ones.ravel())
        case Metric.AUC, Loss.BINARY_CROSSENTROPY:
            return roc_auc_score(BITS.ravel(), logits.ravel())
        case Metric.F1_SCORE, Loss.BINARY_CROSSENTROPY:
            return f1_score(bits, ones, average="macro")
        case Metric.MEAN_IOU, Loss.BINARY_CROSSENTROPY:
            return jaccard_score(bits, ones, average="macro")
        case Metric.ACCURACY, _:
            return accuracy_score(CLASSES, said)
        case Metric.TOP_K_CATEGORICAL_ACCURACY, _:
            return top_k_accuracy_score(CLASSES, logits, k=metrics.TOP_K, labels=range(OUTPUTS))
        case Metric.AUC, _:
            return roc_auc_score(LABELS[ONE_HOT].ravel(), probabilities_for(SPARSE).ravel())
        case Metric.F1_SCORE, _:
            return f1_score(CLASSES, said, average="macro")
        case Metric.MEAN_IOU, _:
            return jaccard_score(CLASSES, said, average="macro")
        case Metric.MEAN_ABSOLUTE_ERROR, _:
            return mean_absolute_error(LABELS[SQUARED], logits)
        case _:
            return root_mean_squared_error(LABELS[SQUARED].ravel(), logits.ravel())


FITTING = [(metric, loss) for metric in Metric for loss in Loss if not why_unfit([metric], loss, OUTPUTS)]


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize(("metric", "loss"), FITTING)
def test_a_metric_is_scikit_learns(metric: Metric, loss: Loss, from_logits: bool) -> None:
    outputs = logits_for(loss) if from_logits or loss is SQUARED else probabilities_for(loss)

    found = value(metric, outputs, LABELS[loss], loss, from_logits=from_logits)

    assert found == pytest.approx(scikits(metric, loss), abs=1e-3 if metric is Metric.AUC else 1e-6)


@pytest.mark.parametrize(
    ("metric", "loss", "keras_metric"),
    [
        (Metric.TOP_K_CATEGORICAL_ACCURACY, SPARSE, keras.metrics.SparseTopKCategoricalAccuracy),
        (Metric.TOP_K_CATEGORICAL_ACCURACY, ONE_HOT, keras.metrics.TopKCategoricalAccuracy),
        (Metric.MEAN_IOU, ONE_HOT, lambda: keras.metrics.OneHotMeanIoU(OUTPUTS)),
        (Metric.AUC, ONE_HOT, lambda: keras.metrics.AUC(2000)),
        (Metric.AUC, BINARY, lambda: keras.metrics.AUC(2000)),
        (Metric.MEAN_ABSOLUTE_ERROR, SQUARED, keras.metrics.MeanAbsoluteError),
        (Metric.ROOT_MEAN_SQUARED_ERROR, SQUARED, keras.metrics.RootMeanSquaredError),
    ],
)
def test_a_metric_is_keras_own(metric: Metric, loss: Loss, keras_metric: type) -> None:
    outputs = logits_for(loss) if loss is SQUARED else probabilities_for(loss)
    theirs = keras_metric()
    theirs.update_state(LABELS[loss], outputs)

    found = value(metric, outputs, LABELS[loss], loss, from_logits=False)

    assert found == pytest.approx(float(theirs.result()), abs=1e-3 if metric is Metric.AUC else 1e-5)


@pytest.mark.parametrize(("metric", "loss"), FITTING)
def test_tallies_of_parts_add_up_to_that_of_all_and_have_the_form_that_is_said(
    metric: Metric, loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, labels, logits = Objective(loss, from_logits=True), LABELS[loss], logits_for(loss)
    whole = metric.tally(logits, labels, objective)

    parts = [metric.tally(logits[part], labels[part], objective) for part in (slice(0, 7), slice(7, None))]
    monkeypatch.setattr(metrics, "_PART_SCALARS", 100)
    in_pieces = metric.tally(logits, labels, objective)

    for found in (parts[0] + parts[1], in_pieces):
        np.testing.assert_allclose(found, whole, rtol=1e-12)
        assert (found.dtype, found.shape) == metric.form(loss, OUTPUTS)


@pytest.mark.parametrize(("metric", "loss"), FITTING)
def test_places_count_as_examples_do(metric: Metric, loss: Loss) -> None:
    outputs = logits_for(loss)
    of_places = LABELS[loss].reshape(EXAMPLES // 4, 2, 2, *LABELS[loss].shape[1:])

    found = value(metric, outputs.reshape(EXAMPLES // 4, 2, 2, OUTPUTS), of_places, loss)

    assert found == value(metric, outputs, LABELS[loss], loss)


@pytest.mark.parametrize("scale", [0.05, 1.0, 40.0])
@pytest.mark.parametrize("shift", [-7.0, 0.0, 5.0])
def test_the_area_is_near_the_exact_one_wherever_the_scores_lie(scale: float, shift: float) -> None:
    """Near 1/2, near 0 and 1, in a narrow range and in a wide one."""
    labels = BITS[:, :1]
    logits = scale * (NOISE[:, :1] + labels).astype(np.float32) + np.float32(shift)

    found = value(Metric.AUC, np.clip(logits, -15, 15), labels, BINARY)

    assert found == pytest.approx(roc_auc_score(labels, np.clip(logits, -15, 15)), abs=1e-3)


@pytest.mark.parametrize("from_logits", [False, True])
def test_the_area_of_two_classes_is_that_of_class_1(from_logits: bool) -> None:
    labels = CLASSES % 2
    logits = NOISE[:, :2] + 2 * np.eye(2, dtype=np.float32)[labels] + np.array([1.0, 0.0], np.float32)
    powers = np.exp(logits.astype(np.float64))
    probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)

    found = value(Metric.AUC, logits if from_logits else probabilities, labels, SPARSE, from_logits=from_logits)

    assert found == pytest.approx(roc_auc_score(labels, probabilities[:, 1]), abs=1e-3)


def test_a_single_output_of_zeros_and_ones_is_scored_as_binary_answers_are() -> None:
    labels, logits = BITS[:, :1], logits_for(BINARY)[:, :1]
    said, true = logits[:, 0] > 0, labels[:, 0] == 1

    assert value(Metric.F1_SCORE, logits, labels, BINARY) == pytest.approx(f1_score(true, said))
    of_both = jaccard_score(true, said, average="macro")
    assert value(Metric.MEAN_IOU, logits, labels, BINARY) == pytest.approx(of_both)
    keras_metric = keras.metrics.BinaryIoU((0, 1), threshold=0.0)
    keras_metric.update_state(labels, logits)
    assert of_both == pytest.approx(float(keras_metric.result()), abs=1e-5)


def test_what_examples_do_not_define_has_no_value() -> None:
    ones, logits = np.ones((3, 1), np.float32), np.full((3, 1), 2.0, np.float32)

    assert value(Metric.AUC, logits, ones, BINARY) is None
    assert value(Metric.F1_SCORE, -logits, 0 * ones, BINARY) is None
    assert value(Metric.MEAN_IOU, logits, ones, BINARY) == 1.0
    for metric in default_metrics(SQUARED):
        assert value(metric, np.array([[math.nan], [1.0]], np.float32), ones[:2], SQUARED) is None


def test_equal_scores_are_chance() -> None:
    for end in (-1e30, 0.0, 1e30):
        outputs = np.full((EXAMPLES, 1), end, np.float32)
        assert value(Metric.AUC, outputs, BITS[:, :1], BINARY) == pytest.approx(0.5)
    assert value(Metric.AUC, np.full((4, 3), math.nan, np.float32), np.arange(4) % 3, SPARSE) == pytest.approx(0.5)
    assert value(Metric.TOP_K_CATEGORICAL_ACCURACY, np.full((4, 8), math.nan, np.float32), np.arange(4), SPARSE) == 0.0


def test_classes_up_to_the_largest_number_take_no_square_of_it() -> None:
    classes = 2**16
    outputs, labels = np.zeros((2, classes), np.float32), np.array([0, classes - 1])

    tally = Metric.F1_SCORE.tally(outputs, labels, Objective(SPARSE, from_logits=True))

    assert tally.shape == (3, classes)
    assert Metric.F1_SCORE.result(tally) == pytest.approx((2 / 3 + 0) / 2)


def test_a_metric_that_does_not_fit_is_told_with_what_it_fits() -> None:
    assert why_unfit([Metric.ACCURACY], SQUARED, 1) == (
        "metric accuracy does not go with the loss mean_squared_error, but with sparse_categorical_crossentropy or "
        "categorical_crossentropy or binary_crossentropy"
    )
    assert why_unfit([Metric.MEAN_ABSOLUTE_ERROR], SPARSE, 3).endswith("but with mean_squared_error")
    assert "needs 6 outputs, and the model has 5" in why_unfit([Metric.TOP_K_CATEGORICAL_ACCURACY], SPARSE, 5)
    assert "named twice" in why_unfit([Metric.AUC, Metric.AUC], BINARY, 1)


@pytest.mark.parametrize("loss", Loss)
def test_the_usual_metrics_fit_their_loss(loss: Loss) -> None:
    assert 1 <= len(default_metrics(loss)) <= MOST_METRICS
    assert why_unfit(default_metrics(loss), loss, loss.rule.fewest_outputs) == ""
