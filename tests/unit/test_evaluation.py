"""Scoring a model's outputs: the formulas, at their edges too. The graph itself is tested where it is built."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.data import Dataset
from fedprune.evaluation import score


def labelled(*labels: int) -> Dataset:
    return Dataset(np.zeros((len(labels), 1), np.float32), np.array(labels, np.int64))


def test_accuracy_and_loss_of_probabilities() -> None:
    outputs = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], np.float32)

    evaluation = score(outputs, labelled(0, 2), from_logits=False)

    assert (evaluation.examples, evaluation.accuracy) == (2, 0.5)
    assert evaluation.loss == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_equal_logits_are_chance() -> None:
    evaluation = score(np.full((4, 10), 3.0, np.float32), labelled(0, 1, 2, 3), from_logits=True)

    assert evaluation.accuracy == 0.25
    assert evaluation.loss == pytest.approx(math.log(10))


def test_huge_logits_overflow_nothing() -> None:
    outputs = np.array([[3e38, -3e38], [3e38, -3e38]], np.float32)

    assert score(outputs[:1], labelled(0), from_logits=True).loss == 0.0
    assert score(outputs[:1], labelled(1), from_logits=True).loss == pytest.approx(6e38, rel=1e-6)


def test_a_probability_of_zero_costs_a_finite_loss() -> None:
    assert score(np.array([[1.0, 0.0]], np.float32), labelled(1), from_logits=False).loss == pytest.approx(16.118, 1e-4)


@given(
    logits=st.lists(st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=3), min_size=1, max_size=5),
    shift=st.floats(-50, 50),
)
def test_logits_and_their_softmax_score_alike(logits: list[list[float]], shift: float) -> None:
    outputs = np.array(logits, np.float64)
    powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    data = labelled(*(int(row.argmax()) for row in outputs))

    from_probabilities = score(probabilities, data, from_logits=False)
    from_logits = score((outputs + shift).astype(np.float32), data, from_logits=True)

    assert from_logits.loss == pytest.approx(from_probabilities.loss, rel=1e-3, abs=1e-4)
