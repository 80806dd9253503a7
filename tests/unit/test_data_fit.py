"""Whether data suit a task: what is reshaped to fit, and one clear line for everything else."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fedprune.data import Dataset, fit_to
from fedprune.errors import DataError
from fedprune.model.forms import InputForm, OutputForm
from fedprune.model.losses import Labels, Loss, Objective

SPARSE, ONE_HOT, BINARY, SQUARED = Loss

X = np.arange(24, dtype=np.float32).reshape(6, 4)
CLASSES = np.array([0, 1, 2, 0, 1, 2], np.int64)
BITS = CLASSES > 0
ROWS = np.eye(3, dtype=np.float32)[CLASSES]


def fit(
    data: Dataset,
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    loss: Loss,
    vocabulary: int | None = None,
) -> Dataset:
    output = OutputForm("y", output_shape, Objective(loss, from_logits=True))
    return fit_to(data, [InputForm("x", input_shape, vocabulary)], [output])


def mine(y: Labels) -> Dataset:
    return Dataset(X, y, "mine.npz")


def test_a_channel_axis_is_added_or_removed_to_fit() -> None:
    grey = Dataset(np.zeros((6, 28, 28), np.float32), CLASSES)
    with_channel = fit(grey, (28, 28, 1), (3,), SPARSE)
    assert with_channel.x.shape == (6, 28, 28, 1)
    assert fit(with_channel, (28, 28), (3,), SPARSE).x.shape == (6, 28, 28)
    assert fit(grey, (28, 28), (10,), SPARSE).x.shape == (6, 28, 28)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 3), (784,), (1, 28, 28)])
def test_data_of_another_shape_do_not_fit(shape: tuple[int, ...]) -> None:
    images = Dataset(np.zeros((6, *shape), np.float32), CLASSES, "mine.npz")
    with pytest.raises(DataError, match=r"mine\.npz: an example of x is .*, the task's model takes 28x28x1"):
        fit(images, (28, 28, 1), (3,), SPARSE)


@pytest.mark.parametrize(
    ("loss", "y", "outputs"),
    [
        (ONE_HOT, ROWS, 3),
        (ONE_HOT, np.full((6, 4), 0.25, np.float32), 4),
        (BINARY, ROWS, 3),
        (BINARY, BITS.astype(np.float32)[:, None], 1),
        (BINARY, BITS.astype(np.int64), 1),
        (SQUARED, -7.5 * ROWS, 3),
        (SQUARED, CLASSES, 1),
    ],
)
def test_labels_become_rows_of_floats(loss: Loss, y: Labels, outputs: int) -> None:
    fitted = fit(mine(y), (4,), (outputs,), loss)

    assert (fitted.y.dtype, fitted.y.shape) == (np.float32, (6, outputs))
    np.testing.assert_array_equal(fitted.y, y.reshape(6, -1))
    assert fitted.origin == "mine.npz"


@pytest.mark.parametrize(("loss", "y"), [(SPARSE, CLASSES), (ONE_HOT, ROWS), (BINARY, ROWS), (SQUARED, ROWS)])
def test_what_fits_is_not_copied(loss: Loss, y: Labels) -> None:
    data = mine(y)
    fitted = fit(data, (4, 1), (3,), loss)
    assert np.shares_memory(fitted.x, data.x)
    assert np.shares_memory(fitted.y, data.y)


@pytest.mark.parametrize(
    ("loss", "y", "outputs", "complaint"),
    [
        (SPARSE, CLASSES, 2, "label 2 is out of range: the task's model has 2 classes, 0 to 1; correct the labels or"),
        (SPARSE, ROWS, 3, "y does not hold class numbers, .*; save y as int64 .of one-hot rows the argmax., or"),
        (SPARSE, ROWS[:, :1], 3, "y does not hold class numbers"),
        (ONE_HOT, CLASSES, 3, r'.* save numpy\.eye.3..y., or .* training\.loss = "sparse_categorical_crossentropy"'),
        (
            ONE_HOT,
            ROWS,
            4,
            r"y is .examples, 3., the task's model returns .examples, 4.; save y like that or build a task for it",
        ),
        (ONE_HOT, ROWS * 2, 3, "6 rows of y are not one-hot .*, the first is example 0; correct them or build a task"),
        (ONE_HOT, ROWS * 3 - 2 * ROWS[::-1], 3, "4 rows of y are not one-hot or other probabilities, "),
        (BINARY, CLASSES, 1, "2 rows of y are not of zeros and ones, .*, the first is example 2; correct them or"),
        (BINARY, ROWS * [1, 1, 0.5], 3, "2 rows of y are not of zeros and ones"),
        (BINARY, BITS.astype(np.int64), 3, r"y is .examples., the task's model returns .examples, 3.; "),
        (SQUARED, CLASSES, 2, r"y is .examples., the task's model returns .examples, 2.; "),
        (SQUARED, ROWS, 1, r"y is .examples, 3., the task's model returns .examples, 1.; "),
    ],
)
def test_labels_that_do_not_suit_the_loss_are_refused(loss: Loss, y: Labels, outputs: int, complaint: str) -> None:
    with pytest.raises(DataError, match=rf"^mine\.npz: {complaint}") as caught:
        fit(mine(y.astype(np.float32) if y.ndim == 2 else y), (4,), (outputs,), loss)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "y", "output_shape", "shape"),
    [
        (SPARSE, CLASSES.reshape(6, 1, 1) + np.zeros((6, 2, 5), np.int64), (2, 5, 3), (6, 2, 5)),
        (SPARSE, np.zeros((6, 2, 5, 1), np.int64), (2, 5, 3), (6, 2, 5)),
        (ONE_HOT, np.stack([ROWS, ROWS], axis=1), (2, 3), (6, 2, 3)),
        (ONE_HOT, np.stack([ROWS, ROWS], axis=1).astype(np.int64), (2, 3), (6, 2, 3)),
        (BINARY, np.ones((6, 4, 2), np.int64), (4, 2, 1), (6, 4, 2, 1)),
        (SQUARED, X.reshape(6, 2, 2), (2, 2, 1), (6, 2, 2, 1)),
        (SQUARED, np.full((6, 4), -7), (4,), (6, 4)),
    ],
)
def test_labels_of_places_take_the_shape_of_the_output(
    loss: Loss, y: Labels, output_shape: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    fitted = fit(mine(y), (4,), output_shape, loss)

    assert (fitted.y.dtype, fitted.y.shape) == (np.int64 if loss is SPARSE else np.float32, shape)
    np.testing.assert_array_equal(fitted.y.ravel(), y.ravel())


@pytest.mark.parametrize(
    ("loss", "y", "output_shape", "complaint"),
    [
        (SPARSE, CLASSES, (2, 3), r"y does not hold class numbers, integers .examples, 2., .* int64 .examples.; save"),
        (SPARSE, np.zeros((6, 2, 3), np.int64), (2, 3), r"y does not hold class numbers, integers .examples, 2., "),
        (
            SPARSE,
            np.array([[0, 1], [0, -1]] * 3),
            (2, 3),
            "label -1 is out of range: .* has 3 classes, 0 to 2; correct",
        ),
        (SPARSE, np.array([[0, 1], [0, 255]] * 3), (2, 3), "label 255 is out of range: .* 3 classes, 0 to 2; correct"),
        (ONE_HOT, np.zeros((6, 2), np.int64), (2, 3), r"y holds class numbers, .* save numpy\.eye.3..y., or"),
        (
            ONE_HOT,
            np.stack([ROWS, 2 * ROWS], axis=1),
            (2, 3),
            "6 rows of y are not one-hot .*, the first is example 0;",
        ),
        (
            BINARY,
            np.stack([ROWS, CLASSES[:, None] * ROWS], axis=1),
            (2, 3),
            "2 rows of y .* first is example 2; correct",
        ),
        (
            SQUARED,
            X.reshape(6, 2, 2),
            (4, 1),
            r"y is .examples, 2, 2., the task's model returns .examples, 4, 1.; save",
        ),
    ],
)
def test_labels_of_places_that_do_not_suit_the_task_are_refused(
    loss: Loss, y: Labels, output_shape: tuple[int, ...], complaint: str
) -> None:
    with pytest.raises(DataError, match=rf"^mine\.npz: {complaint}") as caught:
        fit(mine(y), (4,), output_shape, loss)
    assert "\n" not in str(caught.value)


def sentences(ids: NDArray[np.int32]) -> Dataset:
    return Dataset(ids, np.zeros(len(ids), np.int64), "mine.npz")


@given(
    ids=arrays(np.int32, st.tuples(st.integers(1, 5), st.just(4)), elements=st.integers(-3, 12)),
    vocabulary=st.integers(1, 10),
)
def test_ids_reach_a_model_only_if_it_knows_all_of_them(ids: NDArray[np.int32], vocabulary: int) -> None:
    known = ((ids >= 0) & (ids < vocabulary)).all(axis=1)
    if known.all():
        np.testing.assert_array_equal(fit(sentences(ids), (4,), (2,), SPARSE, vocabulary).x, ids)
        return
    with pytest.raises(DataError, match=rf"example {known.argmin()} with -?\d+: it knows 0 to {vocabulary - 1};"):
        fit(sentences(ids), (4,), (2,), SPARSE, vocabulary)


def test_ids_are_no_numbers_and_numbers_no_ids() -> None:
    with pytest.raises(DataError, match=r"mine\.npz: x holds numbers, .* takes token ids from 0 to 9; save x as int32"):
        fit(mine(CLASSES), (4,), (3,), SPARSE, 10)
    with pytest.raises(DataError, match=r"mine\.npz: x holds integers, .* takes numbers; save x as uint8 .* float32"):
        fit(sentences(X.astype(np.int32)), (4,), (3,), SPARSE)
