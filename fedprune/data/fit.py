"""The check that data fit a task: its model's input, its outputs, and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fedprune.data.dataset import Dataset
from fedprune.errors import DataError
from fedprune.model.losses import LabelForm, Labels, Loss

_SUM_TOLERANCE = 1e-3
"""The most that the sum of a row of probabilities may be off 1."""


def fit_to(
    dataset: Dataset,
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    loss: Loss,
    vocabulary: int | None = None,
) -> Dataset:
    """The data as a model with these shapes, `[*places, outputs]` of its output (without the batch axis), takes them.

    With a `vocabulary` the model takes ids below it: every one is looked at here, so that the place of a wrong one is
    told.

    A last axis of length 1 (the channel of a grey image) is added or removed where that is all that differs; examples
    are not copied. `y` becomes what `loss` takes: see `LabelForm`. Raises `DataError` where
    the data do not fit.
    """
    try:
        if not _are_alike(dataset.input_shape, input_shape):
            raise DataError(
                f"an example of x is {_shape(dataset.input_shape)}, the task's model takes {_shape(input_shape)}; "
                "reshape x or build a task for it"
            )
        _check_inputs(dataset, vocabulary)
        y = _labels(dataset, output_shape, loss.rule.labels)
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


def _labels(dataset: Dataset, output_shape: tuple[int, ...], form: LabelForm) -> Labels:
    match form:
        case LabelForm.CLASS_NUMBERS:
            return _classes(dataset, output_shape)
        case LabelForm.PROBABILITIES:
            return _probabilities(dataset, output_shape)
        case LabelForm.BITS:
            rows = _rows(dataset, output_shape)
            _check_rows(((rows == 0) | (rows == 1)).all(axis=-1), "of zeros and ones")
            return rows
        case LabelForm.NUMBERS:
            return _rows(dataset, output_shape)


def _classes(dataset: Dataset, output_shape: tuple[int, ...]) -> NDArray[np.int64]:
    *places, outputs = output_shape
    if dataset.y.dtype != np.int64 or not _are_alike(dataset.y.shape[1:], tuple(places)):
        raise DataError(
            f"y does not hold class numbers, integers {_batch(places)}, as the task's loss needs them, but "
            f"{dataset.y.dtype} {_batch(dataset.y.shape[1:])}; save y as int64 (of one-hot rows the argmax), or build "
            "another task"
        )
    smallest, largest = int(dataset.y.min()), int(dataset.y.max())
    if smallest < 0 or largest >= outputs:
        raise DataError(
            f"label {smallest if smallest < 0 else largest} is out of range: the task's model has {outputs} classes, 0 "
            f"to {outputs - 1}; correct the labels or build a task with {largest + 1} outputs"
        )
    return cast(NDArray[np.int64], dataset.y.reshape(len(dataset), *places))


def _probabilities(dataset: Dataset, output_shape: tuple[int, ...]) -> NDArray[np.float32]:
    if dataset.y.dtype == np.int64 and _are_alike(dataset.y.shape[1:], output_shape[:-1]):
        raise DataError(
            f"y holds class numbers, the task's loss needs one-hot rows; save numpy.eye({output_shape[-1]})[y], or "
            'build a task with training.loss = "sparse_categorical_crossentropy"'
        )
    rows = _rows(dataset, output_shape)
    sums_to_one = np.abs(rows.sum(axis=-1) - 1) <= _SUM_TOLERANCE
    _check_rows((rows.min(axis=-1) >= 0) & sums_to_one, "one-hot or other probabilities")
    return rows


def _rows(dataset: Dataset, output_shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Labels that are a row of numbers for each place of each example."""
    if not _are_alike(dataset.y.shape[1:], output_shape):
        raise DataError(
            f"y is {_batch(dataset.y.shape[1:])}, the task's model returns {_batch(output_shape)}; save y like that or "
            "build a task for it"
        )
    return np.asarray(dataset.y.reshape(len(dataset), *output_shape), np.float32)


def _check_rows(right: NDArray[np.bool_], what: str) -> None:
    """Raise `DataError` unless every row, `[examples, *places]`, is right."""
    if not right.all():
        first = right.reshape(len(right), -1).all(axis=1).argmin()
        raise DataError(
            f"{np.count_nonzero(~right)} rows of y are not {what}, as the task's loss needs them, the first is "
            f"example {first}; correct them or build a task with another training.loss"
        )


def _are_alike(first: Sequence[int], second: Sequence[int]) -> bool:
    """True for shapes of an example that are equal but for a last axis of length 1."""
    return _without_channel(first) == _without_channel(second)


def _without_channel(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(shape[:-1] if tuple(shape[-1:]) == (1,) else shape)


def _batch(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, ('examples', *shape)))}]"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
