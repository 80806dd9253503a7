"""Losses and accuracies of outputs: Keras' own, and at the edges, where Keras' float32 ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.keras.model import keras_loss
from fedprune.keras.stack import keras, tf
from fedprune.model import losses
from fedprune.model.losses import Labels, Loss, Objective
from fedprune.model.metrics import Metric, why_unfit
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array

SPARSE, ONE_HOT, BINARY, SQUARED = Loss
EXAMPLES, OUTPUTS = 40, 3

LOGITS = (Keyed(0, "logits").uniform(EXAMPLES * OUTPUTS, -6.0, 6.0)).reshape(EXAMPLES, OUTPUTS)
CLASSES = (Keyed(0, "classes").integers(EXAMPLES) % np.uint64(OUTPUTS)).astype(np.int64)
BITS = (Keyed(0, "bits").integers(EXAMPLES * OUTPUTS) % np.uint64(2)).astype(np.float32).reshape(EXAMPLES, OUTPUTS)
LABELS: dict[Loss, Labels] = {
    SPARSE: CLASSES,
    ONE_HOT: np.eye(OUTPUTS, dtype=np.float32)[CLASSES],
    BINARY: BITS,
    SQUARED: Keyed(0, "numbers").uniform(EXAMPLES * OUTPUTS, -6.0, 6.0).reshape(EXAMPLES, OUTPUTS),
}


def outputs_of(objective: Objective) -> Array:
    if objective.from_logits or objective.loss is SQUARED:
        return LOGITS
    end = keras.activations.sigmoid if objective.loss is BINARY else keras.activations.softmax
    return np.asarray(end(tf.constant(LOGITS)).numpy())


def accuracy_of(objective: Objective, outputs: Array, labels: Labels) -> float | None:
    """As an evaluation tells it; None where the loss has none."""
    accuracy = Metric.ACCURACY
    if why_unfit([accuracy], objective.loss, outputs.shape[-1]):
        return None
    return accuracy.result(accuracy.tally(outputs, labels, objective))


def keras_accuracy(objective: Objective) -> keras.metrics.Metric:
    match objective.loss:
        case Loss.SPARSE_CATEGORICAL_CROSSENTROPY:
            return keras.metrics.SparseCategoricalAccuracy()
        case Loss.CATEGORICAL_CROSSENTROPY:
            return keras.metrics.CategoricalAccuracy()
        case _:
            return keras.metrics.BinaryAccuracy(threshold=0.0 if objective.from_logits else 0.5)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("loss", Loss)
def test_the_loss_is_keras_own(loss: Loss, from_logits: bool) -> None:
    objective = Objective(loss, from_logits)
    outputs, labels = outputs_of(objective), LABELS[loss]

    expected = float(keras_loss(objective)(labels, outputs))

    assert objective.mean_loss(outputs, labels) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("loss", [SPARSE, ONE_HOT, BINARY])
def test_the_accuracy_is_keras_own(loss: Loss, from_logits: bool) -> None:
    objective = Objective(loss, from_logits)
    outputs, labels = outputs_of(objective), LABELS[loss]
    metric = keras_accuracy(objective)
    metric.update_state(labels, outputs)

    accuracy = accuracy_of(objective, outputs, labels)

    assert accuracy == pytest.approx(float(metric.result()))
    assert accuracy is not None
    assert 0.1 < accuracy < 0.9


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("loss", Loss)
def test_losses_and_accuracies_are_means_over_places(loss: Loss, from_logits: bool) -> None:
    objective = Objective(loss, from_logits)
    outputs, labels = outputs_of(objective).reshape(10, 2, 2, OUTPUTS), LABELS[loss]
    of_places = labels.reshape(10, 2, 2, *labels.shape[1:])

    assert objective.mean_loss(outputs, of_places) == pytest.approx(
        float(keras_loss(objective)(of_places, outputs)), 1e-5
    )
    assert accuracy_of(objective, outputs, of_places) == accuracy_of(objective, outputs_of(objective), labels)
    assert objective.targets(of_places, OUTPUTS).shape == outputs.shape


@pytest.mark.parametrize("loss", Loss)
def test_the_best_answer_that_is_the_same_for_all_is_one_for_each_place(
    loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few examples are looked at together."""
    objective = Objective(loss, from_logits=True)
    labels = LABELS[loss].reshape(20, 2, *LABELS[loss].shape[1:])

    found = objective.constant_loss(labels, OUTPUTS)

    assert found == pytest.approx(np.mean([objective.constant_loss(labels[:, place], OUTPUTS) for place in (0, 1)]))
    monkeypatch.setattr(losses, "_PART_SCALARS", 20)
    assert objective.constant_loss(labels, OUTPUTS) == pytest.approx(found, rel=1e-9)


def test_a_mean_squared_error_has_no_accuracy() -> None:
    assert accuracy_of(Objective(SQUARED, from_logits=False), LOGITS, LABELS[SQUARED]) is None


@pytest.mark.parametrize("loss", Loss)
def test_targets_of_a_training_graph_are_rows(loss: Loss) -> None:
    targets = Objective(loss, from_logits=True).targets(LABELS[loss], OUTPUTS)

    assert (targets.dtype, targets.shape) == (np.float32, (EXAMPLES, OUTPUTS))
    np.testing.assert_array_equal(targets, LABELS[ONE_HOT] if loss is SPARSE else LABELS[loss])


def test_equal_logits_are_chance() -> None:
    outputs, objective = np.full((4, 10), 3.0, np.float32), Objective(SPARSE, from_logits=True)

    assert accuracy_of(objective, outputs, np.arange(4)) == 0.25
    assert objective.mean_loss(outputs, np.arange(4)) == pytest.approx(math.log(10))


def test_huge_logits_overflow_nothing() -> None:
    outputs = np.array([[3e38, -3e38]], np.float32)
    right, wrong = np.array([[1, 0]], np.float32), np.array([[0, 1]], np.float32)

    sparse = Objective(SPARSE, from_logits=True)
    assert sparse.mean_loss(outputs, np.array([0])) == 0.0
    assert sparse.mean_loss(outputs, np.array([1])) == pytest.approx(6e38, rel=1e-6)
    for loss in (ONE_HOT, BINARY):
        assert Objective(loss, from_logits=True).mean_loss(outputs, right) == 0.0
    assert Objective(ONE_HOT, from_logits=True).mean_loss(outputs, wrong) == pytest.approx(6e38, rel=1e-6)
    assert Objective(BINARY, from_logits=True).mean_loss(outputs, wrong) == pytest.approx(3e38, rel=1e-6)
    assert Objective(SQUARED, from_logits=False).mean_loss(outputs, right) == pytest.approx(9e76, rel=1e-6)


@pytest.mark.parametrize("loss", Loss)
def test_outputs_that_are_not_finite_have_no_loss(loss: Loss) -> None:
    outputs = LOGITS.copy()
    outputs[3, 1] = np.nan

    assert math.isnan(Objective(loss, from_logits=True).mean_loss(outputs, LABELS[loss]))


def test_a_probability_of_zero_costs_a_finite_loss() -> None:
    outputs = np.array([[1.0, 0.0]], np.float32)

    assert Objective(SPARSE, False).mean_loss(outputs, np.array([1])) == pytest.approx(16.118, 1e-4)
    assert Objective(BINARY, False).mean_loss(outputs, np.array([[0, 1]], np.float32)) == pytest.approx(15.42, 1e-3)


@given(
    logits=st.lists(st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=3), min_size=1, max_size=5),
    shift=st.floats(-50, 50),
)
def test_logits_and_their_softmax_score_alike(logits: list[list[float]], shift: float) -> None:
    outputs = np.array(logits, np.float64)
    powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    labels = outputs.argmax(axis=1)

    from_probabilities = Objective(SPARSE, from_logits=False).mean_loss(probabilities, labels)
    from_logits = Objective(SPARSE, from_logits=True).mean_loss((outputs + shift).astype(np.float32), labels)

    assert from_logits == pytest.approx(from_probabilities, rel=1e-3, abs=1e-4)
