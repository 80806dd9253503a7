"""Whether data fit a task's model."""

from __future__ import annotations

from fedprune.data.dataset import Dataset
from fedprune.errors import DataError


def fit_to(dataset: Dataset, input_shape: tuple[int, ...], classes: int) -> Dataset:
    """The data as a model with this input shape (without the batch axis) and number of classes takes them.

    A last axis of length 1 (the channel of a grey image) is added or removed where that is all that differs; the
    examples are not copied. Raises `DataError` where the data do not fit.
    """
    largest = dataset.classes - 1
    if largest >= classes:
        raise DataError(
            f"{dataset.origin}: label {largest} is out of range: the task's model has {classes} classes, "
            f"0 to {classes - 1}; correct the labels or build a task with {largest + 1} classes"
        )
    if _without_channel(dataset.input_shape) != _without_channel(input_shape):
        raise DataError(
            f"{dataset.origin}: an example of x is {_shape(dataset.input_shape)}, the task's model takes "
            f"{_shape(input_shape)}; reshape x or build a task for it"
        )
    return Dataset(dataset.x.reshape(len(dataset), *input_shape), dataset.y, dataset.origin)


def _without_channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:-1] if shape[-1:] == (1,) else shape


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
