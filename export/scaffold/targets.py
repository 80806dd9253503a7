"""What a model learns of its data: labels of classes or numbers, and the loss that suits both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.scaffold.data_look import MAX_DISTINCT, Column
from export.scaffold.model_look import ModelLook, OutputLook
from export.scaffold.questions import Questions
from fedprune.data.dataset import Dataset
from fedprune.data.skipped import Fault
from fedprune.errors import ConfigurationError, DataError, TaskError
from fedprune.model.losses import Labels, Loss

_CLASSES, _NUMBERS = "classes", "numbers"
_LOOKED_AT = 10_000
"""Examples whose labels are looked at."""


@dataclass(frozen=True)
class Targets:
    """The names of the classes, none where labels are numbers, and the loss."""

    labels: tuple[str, ...]
    loss: Loss


def only_output(model: ModelLook) -> OutputLook:
    """The output of a model that takes one example and gives one row. Raises `TaskError` for others."""
    if len(model.inputs) > 1 or len(model.outputs) > 1:
        raise TaskError(
            f"model {model.name!r} has {len(model.inputs)} inputs and {len(model.outputs)} outputs: save your examples "
            "as an .npz with arrays x_NAME and y_NAME, and write task.toml by docs/SETTINGS.md"
        )
    output = model.outputs[0]
    if len(output.shape) != 1:
        raise TaskError(
            f"model {model.name!r} returns {list(output.shape)} for an example, and files in folders and rows have one "
            "label each: save an .npz with an array y of that shape, or end the model in one row"
        )
    return output


def targets_of_classes(output: OutputLook, names: Sequence[str], origin: str, other_cure: str = "") -> Targets:
    """The loss of a model that tells so many classes apart. Raises `TaskError` if it has another number of outputs;
    `other_cure` ends its message."""
    outputs = output.shape[-1]
    binary = outputs == 1 and output.activation in ("sigmoid", "linear")
    if binary and len(names) == 2:
        return Targets(tuple(names), Loss.BINARY_CROSSENTROPY)
    if len(names) != outputs or outputs < 2:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        wanted = "1 or 2" if len(names) == 2 else str(len(names))
        raise TaskError(
            f"{origin} has {len(names)} classes ({shown}), and the model {outputs} outputs; end the model in {wanted}, "
            f"or correct the data{other_cure}"
        )
    if output.activation not in ("softmax", "linear"):
        raise TaskError(
            f"the model ends in {output.activation}, and tells {outputs} classes apart; end it in softmax, or in no "
            "activation"
        )
    return Targets(tuple(names), Loss.SPARSE_CATEGORICAL_CROSSENTROPY)


def targets_of_column(output: OutputLook, name: str, column: Column, questions: Questions, origin: str) -> Targets:
    """The names of classes in a column of labels, or none. Raises `TaskError` where it does not fit the model."""
    kind = _kind(output, name, column, questions)
    if kind == _NUMBERS:
        if not column.is_numeric:
            raise TaskError(f"{origin}: {column.fault or 'it has no labels'}; or name another column with --label")
        if output.shape != (1,):
            raise TaskError(
                f"{origin}: column {name!r} holds one number for an example, and the model returns {output.shape[-1]}; "
                "end it in Dense(1), or take the numbers for classes with --targets classes"
            )
        return Targets((), Loss.MEAN_SQUARED_ERROR)
    if len(column.distinct) > MAX_DISTINCT:
        raise TaskError(
            f"{origin}: column {name!r} holds more than {MAX_DISTINCT} different labels, which are no classes; name "
            f"another with --label{_cure_of_numbers(output, column)}"
        )
    return targets_of_classes(
        output, class_names(column), f"{origin}: column {name!r}", _cure_of_numbers(output, column)
    )


def _cure_of_numbers(output: OutputLook, column: Column) -> str:
    """The end of a message about classes in a column that may be meant to hold numbers."""
    if column.is_numeric:
        return ", or take its labels for numbers with --targets numbers" if output.shape == (1,) else ""
    if column.fault is None or (column.fault.fault is Fault.NO_NUMBER and not column.numbers):
        return ""
    return f"; if they should be numbers: {column.fault}"


def class_names(column: Column) -> list[str]:
    """The different labels, in the order of their numbers if they are numbers."""
    if column.numbers == column.cells:
        return sorted(column.distinct, key=float)
    return sorted(column.distinct)


def _kind(output: OutputLook, name: str, column: Column, questions: Questions) -> str:
    """Classes or numbers: given, or plain from both model and labels, or else asked."""
    if questions.given("targets") is not None:
        return questions.ask("targets", "", (_CLASSES, _NUMBERS))
    if output.activation in ("softmax", "sigmoid") or not column.is_numeric:
        return _CLASSES
    if output.shape == (1,) and (not column.is_whole or len(column.distinct) > 2):
        return _NUMBERS
    if output.shape[-1] > 1 and column.is_whole and len(column.distinct) == output.shape[-1]:
        return _CLASSES
    return questions.ask("targets", f"whether the labels in {name!r} are classes or numbers", (_CLASSES, _NUMBERS))


def loss_of_arrays(output: OutputLook, dataset: Dataset) -> Loss:
    """The loss that suits labels which are arrays already. Whether they fit the model is for `fit_to` to say.

    Raises `DataError` for class numbers that are floats.
    """
    y, outputs = dataset.labels["y"], output.shape[-1]
    of_classes = output.activation != "sigmoid" and outputs > 1
    if of_classes and y.dtype != np.int64 and y.size * outputs == len(y) * math.prod(output.shape):
        _refuse_floats(y, dataset.origin)
    if of_classes and y.dtype == np.int64:
        return Loss.SPARSE_CATEGORICAL_CROSSENTROPY
    if output.activation == "softmax":
        return Loss.CATEGORICAL_CROSSENTROPY
    of_bits = bool(np.isin(y[:_LOOKED_AT], (0, 1)).all())
    if of_bits and (output.activation == "sigmoid" or (outputs == 1 and y.dtype == np.int64)):
        return Loss.BINARY_CROSSENTROPY
    return Loss.MEAN_SQUARED_ERROR


def _refuse_floats(y: Labels, origin: str) -> None:
    """Raise `DataError` if floats, one for each place, are the numbers of classes."""
    looked = y[:_LOOKED_AT]
    if (looked >= 0).all() and (looked == np.floor(looked)).all():
        raise DataError(f'{origin}: y holds class numbers as floats; save y.astype("int64")')


def loss_given(questions: Questions, suitable: Loss) -> Loss:
    """The loss that suits, unless another was given."""
    name = questions.given("loss")
    if name is None:
        return suitable
    try:
        return Loss(name)
    except ValueError:
        raise ConfigurationError(f"--loss {name!r}: it is none of {', '.join(Loss)}") from None
