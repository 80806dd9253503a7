"""The check that data fit a task: its model's input, its outputs, and its loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedprune.data.dataset import Dataset
from fedprune.errors import DataError
from fedprune.model.losses import LabelForm, Labels, Loss

_SUM_TOLERANCE = 1e-3
"""The most that the sum of a row of probabilities may be off 1."""


def fit_to(
    dataset: Dataset, input_shape: tuple[int, ...], outputs: int, loss: Loss, vocabulary: int | None = None
) -> Dataset:
    """The data as a model with this input shape (without the batch axis) and number of outputs takes them.

    With a `vocabulary` the model takes ids below it, and no runtime checks them: every one is looked at here.

    A last axis of length 1 (the channel of a grey image) is added to x or removed where that is all that differs; the
    examples are not copied. `y` becomes what `loss` takes: see `LabelForm`. Raises `DataError` where
    the data do not fit.
    """
    try:
        if _without_channel(dataset.input_shape) != _without_channel(input_shape):
            raise DataError(
                f"an example of x is {_shape(dataset.input_shape)}, the task's model takes {_shape(input_shape)}; "
                "reshape x or build a task for it"
            )
        _check_inputs(dataset, vocabulary)
        y = _labels(dataset, outputs, loss.rule.labels)
    except DataError as error:
        raise DataError(f"{dataset.origin}: {error}") from None
    return Dataset(dataset.x.reshape(len(dataset), *input_shape), y, dataset.origin)


def _check_inputs(dataset: Dataset, vocabulary: int | None) -> None:
    """Raise `DataError` unless x holds what the model takes: numbers, or ids of its vocabulary."""
    if vocabulary is None:
        if dataset.holds_ids:
            raise DataError(
                "x holds integers, as token ids are, and the task's model takes numbers; save x as uint8 (pixels, "
                "0 to 255) or as float32"
            )
        return
    if not dataset.holds_ids:
        raise DataError(
            f"x holds numbers, and the task's model takes token ids from 0 to {vocabulary - 1}; save x as int32"
        )
    known = ((dataset.x >= 0) & (dataset.x < vocabulary)).reshape(len(dataset), -1)
    if not known.all():
        example = int(known.all(axis=1).argmin())
        wrong = dataset.x.reshape(len(dataset), -1)[example, known[example].argmin()]
        raise DataError(
            f"{np.count_nonzero(~known.all(axis=1))} examples of x hold ids that the task's model does not know, the "
            f"first is example {example} with {wrong}: it knows 0 to {vocabulary - 1}; save one of these for unknown "
            "words, or build a task with a larger vocabulary"
        )


def _labels(dataset: Dataset, outputs: int, form: LabelForm) -> Labels:
    match form:
        case LabelForm.CLASS_NUMBERS:
            return _classes(dataset, outputs)
        case LabelForm.PROBABILITIES:
            return _probabilities(dataset, outputs)
        case LabelForm.BITS:
            rows = _rows(dataset, outputs)
            _check_rows(((rows == 0) | (rows == 1)).all(axis=1), "of zeros and ones")
            return rows
        case LabelForm.NUMBERS:
            return _rows(dataset, outputs)


def _classes(dataset: Dataset, outputs: int) -> NDArray[np.int64]:
    labels = dataset.class_numbers
    if labels is None:
        raise DataError(
            "y does not hold class numbers, one integer for each example, as the task's loss needs them; save y as "
            "int64 (of one-hot rows the argmax), or build a task with another training.loss"
        )
    largest = dataset.classes - 1
    if largest >= outputs:
        raise DataError(
            f"label {largest} is out of range: the task's model has {outputs} classes, 0 to {outputs - 1}; "
            f"correct the labels or build a task with {largest + 1} outputs"
        )
    return labels


def _probabilities(dataset: Dataset, outputs: int) -> NDArray[np.float32]:
    if dataset.class_numbers is not None:
        raise DataError(
            f"y holds class numbers, the task's loss needs one-hot rows; save numpy.eye({outputs})[y], or build a task "
            'with training.loss = "sparse_categorical_crossentropy"'
        )
    rows = _rows(dataset, outputs)
    sums_to_one = np.abs(rows.sum(axis=1) - 1) <= _SUM_TOLERANCE
    _check_rows((rows.min(axis=1) >= 0) & sums_to_one, "one-hot or other probabilities")
    return rows


def _rows(dataset: Dataset, outputs: int) -> NDArray[np.float32]:
    """Labels that are a row of `outputs` numbers for each example."""
    rows = np.asarray(dataset.y.reshape(len(dataset), -1), np.float32)
    if rows.shape[1] != outputs:
        raise DataError(
            f"y is [examples, {rows.shape[1]}], the task's model returns [examples, {outputs}]; save y like that or "
            "build a task for it"
        )
    return rows


def _check_rows(right: NDArray[np.bool_], what: str) -> None:
    if not right.all():
        raise DataError(
            f"{np.count_nonzero(~right)} rows of y are not {what}, as the task's loss needs them, the first is "
            f"example {right.argmin()}; correct them or build a task with another training.loss"
        )


def _without_channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:-1] if shape[-1:] == (1,) else shape


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
