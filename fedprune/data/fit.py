"""The check that data fit a task: its model's input, its outputs, and its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.data.dataset import AnyExamples
from fedprune.data.stored_rows import Rows, as_float32, in_parts, reshaped
from fedprune.errors import DataError
from fedprune.model.forms import InputForm, OutputForm
from fedprune.model.losses import LabelForm
from fedprune.model.tensors import Array

_SUM_TOLERANCE = 1e-3
"""The most that the sum of a row of probabilities may be off 1."""


def fit_to(examples: AnyExamples, inputs: Sequence[InputForm], outputs: Sequence[OutputForm]) -> AnyExamples:
    """The data as a model of these inputs and outputs takes them, in the model's order.

    Every id of a vocabulary is looked at here, so that the place of a wrong one is told.

    A last axis of length 1 (the channel of a grey image) is added or removed where that is all that differs; examples
    are not copied. Labels become what the loss takes: see `LabelForm`. Raises `DataError` where the data do not fit.
    """
    try:
        _check_arrays(examples.inputs, [form.array for form in inputs], "takes")
        _check_arrays(examples.labels, [form.array for form in outputs], "learns")
        x = {form.array: _input(examples.inputs[form.array], form) for form in inputs}
        y = {form.array: _labels(examples.labels[form.array], form) for form in outputs}
    except DataError as error:
        raise DataError(f"{examples.origin}: {error}") from None
    return examples.with_arrays(x, y)


def _check_arrays(found: Iterable[str], expected: Sequence[str], does: str) -> None:
    if set(found) != set(expected):
        raise DataError(
            f"it holds {_listed(found)}, the task's model {does} {_listed(expected)}; save arrays of these names, or "
            "build a task for it"
        )


def _input(x: Rows, form: InputForm) -> Rows:
    if not _are_alike(x.shape[1:], form.shape):
        raise DataError(
            f"an example of {form.array} is {_shape(x.shape[1:])}, the task's model takes {_shape(form.shape)}; "
            f"reshape {form.array} or build a task for it"
        )
    _check_ids(x, form)
    return reshaped(x, form.shape)


def _check_ids(x: Rows, form: InputForm) -> None:
    """Raise `DataError` unless x holds what the model takes: numbers, or ids of its vocabulary."""
    name, vocabulary = form.array, form.vocabulary
    if vocabulary is None:
        if x.dtype == np.int32:
            raise DataError(
                f"{name} holds integers, as token ids are, and the task's model takes numbers; save {name} as uint8 "
                "(pixels, 0 to 255) or as float32"
            )
        return
    if x.dtype != np.int32:
        raise DataError(
            f"{name} holds numbers, and the task's model takes token ids from 0 to {vocabulary - 1}; save {name} as "
            "int32"
        )
    known = _of_each(x, lambda part: ((part >= 0) & (part < vocabulary)).reshape(len(part), -1).all(axis=1))
    if not known.all():
        example = int(known.argmin())
        ids = x[example : example + 1].reshape(-1)
        wrong = ids[((ids >= 0) & (ids < vocabulary)).argmin()]
        raise DataError(
            f"{np.count_nonzero(~known)} examples of {name} hold ids that the task's model does not know, "
            f"the first is example {example} with {wrong}: it knows 0 to {vocabulary - 1}; save one of these for "
            "unknown words, or build a task with a larger vocabulary"
        )


def _labels(y: Rows, form: OutputForm) -> Rows:
    match form.objective.loss.rule.labels:
        case LabelForm.CLASS_NUMBERS:
            return _classes(y, form)
        case LabelForm.PROBABILITIES:
            return _probabilities(y, form)
        case LabelForm.BITS:
            rows = _rows(y, form)
            _check_rows(rows, lambda part: ((part == 0) | (part == 1)).all(axis=-1), form, "of zeros and ones")
            return rows
        case LabelForm.NUMBERS:
            return _rows(y, form)


def _classes(y: Rows, form: OutputForm) -> Rows:
    name = form.array
    *places, outputs = form.shape
    if y.dtype != np.int64 or not _are_alike(y.shape[1:], tuple(places)):
        raise DataError(
            f"{name} does not hold class numbers, integers {_batch(places)}, as the task's loss needs them, but "
            f"{y.dtype} {_batch(y.shape[1:])}; save {name} as int64 (of one-hot rows the argmax), or build another task"
        )
    smallest = min(int(part.min()) for _, part in in_parts(y))
    largest = max(int(part.max()) for _, part in in_parts(y))
    if smallest < 0 or largest >= outputs:
        raise DataError(
            f"label {smallest if smallest < 0 else largest} {_in(name)}is out of range: the task's model has {outputs} "
            f"classes, 0 to {outputs - 1}; correct the labels or build a task with {largest + 1} outputs"
        )
    return reshaped(y, tuple(places))


def _probabilities(y: Rows, form: OutputForm) -> Rows:
    if y.dtype == np.int64 and _are_alike(y.shape[1:], form.shape[:-1]):
        raise DataError(
            f"{form.array} holds class numbers, the task's loss needs one-hot rows; save "
            f"numpy.eye({form.shape[-1]})[{form.array}], or build a task with "
            'training.loss = "sparse_categorical_crossentropy"'
        )
    rows = _rows(y, form)
    _check_rows(rows, _are_probabilities, form, "one-hot or other probabilities")
    return rows


def _are_probabilities(rows: Array) -> NDArray[np.bool_]:
    sums_to_one = np.abs(rows.sum(axis=-1) - 1) <= _SUM_TOLERANCE
    return np.asarray((rows.min(axis=-1) >= 0) & sums_to_one)


def _rows(y: Rows, form: OutputForm) -> Rows:
    """Labels that are a row of numbers for each place of each example."""
    if not _are_alike(y.shape[1:], form.shape):
        raise DataError(
            f"{form.array} is {_batch(y.shape[1:])}, the task's model returns {_batch(form.shape)}; save {form.array} "
            "like that or build a task for it"
        )
    return as_float32(reshaped(y, form.shape))


def _check_rows(rows: Rows, are_right: Callable[[Array], Any], form: OutputForm, what: str) -> None:
    """Raise `DataError` unless every row, `[examples, *places]`, is right."""
    wrong = _of_each(rows, lambda part: np.count_nonzero(~are_right(part).reshape(len(part), -1), axis=1))
    if wrong.any():
        first = (wrong > 0).argmax()
        raise DataError(
            f"{wrong.sum()} rows of {form.array} are not {what}, as the task's loss needs them, the first "
            f"is example {first}; correct them or build a task with another training.loss"
        )


def _of_each(rows: Rows, judge: Callable[[NDArray[Any]], Any]) -> NDArray[Any]:
    """What is found of each row, part by part: `[rows]`."""
    return np.concatenate([judge(part) for _, part in in_parts(rows)])


def _in(name: str) -> str:
    """Which labels are meant, where there are several."""
    return "" if name == "y" else f"in {name} "


def _listed(names: Iterable[str]) -> str:
    return " and ".join(sorted(names))


def _are_alike(first: Sequence[int], second: Sequence[int]) -> bool:
    """True for shapes of an example that are equal but for a last axis of length 1."""
    return _without_channel(first) == _without_channel(second)


def _without_channel(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(shape[:-1] if tuple(shape[-1:]) == (1,) else shape)


def _batch(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, ('examples', *shape)))}]"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
