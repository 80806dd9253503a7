"""Normalisation of inputs, and of targets, by statistics that the task holds: the same on every device and in the
exported model."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedprune.data.dataset import AnyExamples, Examples
from fedprune.data.description import Arrays, Data, Images, Normalization, Recordings, Series, Standard, Table, Text
from fedprune.data.stored_rows import Rows, StoredRows, as_float32, in_parts
from fedprune.errors import DataError


def inputs_of(data: Data) -> Normalization | None:
    """The normalisation of a form's inputs: token ids have none."""
    return None if isinstance(data, Text) else data.normalize


def targets_of(data: Data) -> Normalization | None:
    """The normalisation of a form's labels: names of classes have none."""
    return data.targets if isinstance(data, Arrays | Table | Series | Text) else None


def lacks_statistics(data: Data) -> bool:
    """True for a form whose statistics have yet to be gathered of the devices."""
    return any(each is not None and each.lacks_statistics for each in (inputs_of(data), targets_of(data)))


def fills_missing(data: Data) -> bool:
    """True where the mean stands in for what is missing of an input, which is 0 once it is normalised."""
    return isinstance(inputs_of(data), Standard)


def with_normalization(data: Data, inputs: Normalization | None, targets: Normalization | None) -> Data:
    """The same form with other statistics, or without."""
    match data:
        case Images() | Recordings():
            return msgspec.structs.replace(data, normalize=inputs)
        case Text():
            return msgspec.structs.replace(data, targets=targets)
        case _:
            return msgspec.structs.replace(data, normalize=inputs, targets=targets)


def normalized(examples: AnyExamples, data: Data) -> AnyExamples:
    """What was read, as the task's model takes it: x changes in place where it is in memory, and else when it is read;
    y is copied if it changes.

    Raises what `normalize` does; and `DataError` for missing values for which nothing stands in.
    """
    inputs, targets = inputs_of(data), targets_of(data)
    if not fills_missing(data):
        _check_complete(examples)
    if inputs is not None:
        examples = normalize(examples, inputs)
    return examples if targets is None else normalize_targets(examples, targets)


def normalize(examples: AnyExamples, normalization: Normalization) -> AnyExamples:
    """The examples with x, float32 `[examples, ..., columns]`, normalised: in place where it is in memory, since it may
    be large. NaN, a missing value, becomes 0, as the mean does.

    Raises `DataError` where there are several inputs, or x holds token ids, has another number of columns, or would not
    be finite; and where the statistics are not gathered yet.

    Example:
        >>> data = Examples({"x": np.float32([[20, 0], [30, 50]])}, {"y": np.array([0, 1])})
        >>> normalize(data, Standard(mean=(20.0, 50.0), std=(10.0, 50.0))).inputs["x"].tolist()
        [[0.0, -1.0], [1.0, 0.0]]
    """
    if "x" not in examples.inputs:
        raise DataError(f"{examples.origin}: it has several inputs, and the task normalises x; save one array x")
    x = examples.inputs["x"]
    if x.dtype == np.int32:
        raise DataError(f"{examples.origin}: x holds token ids, and the task normalises numbers; save x as float32")
    return examples.with_arrays({"x": _normalized(x, "x", normalization, examples.origin)}, examples.labels)


def normalize_targets(examples: AnyExamples, normalization: Normalization) -> AnyExamples:
    """The same examples with y, `[examples, ..., outputs]` or a number for each place, normalised. y is copied.

    Raises what `normalize` does.

    Example:
        >>> data = Examples({"x": np.float32([[0], [0]])}, {"y": np.float32([100, 300])})
        >>> normalize_targets(data, Standard(mean=(200.0,), std=(100.0,))).labels["y"].tolist()
        [-1.0, 1.0]
    """
    if "y" not in examples.labels:
        raise DataError(f"{examples.origin}: it has several outputs, and the task normalises y; save one array y")
    y = examples.labels["y"]
    numbers = as_float32(y) if isinstance(y, StoredRows) else y.astype(np.float32)
    return examples.with_arrays(examples.inputs, {"y": _normalized(numbers, "y", normalization, examples.origin)})


def shift_and_scale(normalization: Normalization) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What is subtracted, and what is then divided by: both `[columns]`, or `[1]` for all of them."""
    if isinstance(normalization, Standard):
        return np.array(normalization.mean), np.array(normalization.std)
    low, high = np.array(normalization.minimum), np.array(normalization.maximum)
    return low, high - low


def scale_of(normalization: Normalization) -> tuple[float, ...]:
    """What 1 was before normalisation, for each column or for all of them."""
    return tuple(shift_and_scale(normalization)[1].tolist())


def _normalized(values: Rows, name: str, normalization: Normalization, origin: str) -> Rows:
    """What is in memory changes in place; it is contiguous."""
    if normalization.lacks_statistics:
        raise DataError(
            f'{origin}: the task\'s statistics = "federated" are not gathered yet; a gateway does that before the '
            "first round, or give them in task.toml"
        )
    shift, scale = (each.astype(np.float32) for each in shift_and_scale(normalization))
    columns = values.shape[-1] if len(values.shape) > 1 else 1
    if len(shift) not in (1, columns):
        raise DataError(
            f"{origin}: an example of {name} has {columns} columns or channels, the task normalises {len(shift)}; "
            "build the task with statistics for each, or with one for all"
        )

    def change(rows: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            np.subtract(rows, shift, out=rows)
            np.divide(rows, scale, out=rows)
        if isinstance(normalization, Standard):
            for _, part in in_parts(rows):
                part[np.isnan(part)] = 0
        return rows

    changed = values.changed(change) if isinstance(values, StoredRows) else change(values)
    for start, part in in_parts(changed):
        finite = np.isfinite(part).reshape(len(part), -1).all(axis=1)
        if not finite.all():
            raise DataError(
                f"{origin}: example {start + finite.argmin()} of {name} is too far from the task's statistics for "
                "float32; correct it"
            )
    return changed


def _check_complete(examples: Examples) -> None:
    for name, x in examples.inputs.items():
        for start, part in in_parts(x):
            lacks = np.isnan(part).reshape(len(part), -1).any(axis=1)
            if lacks.any():
                raise DataError(
                    f"{examples.origin}: example {start + lacks.argmax()} of {name} lacks a number (NaN), and the task "
                    'fills in none; fill it in, or build the task with data.normalize of kind = "standard"'
                )
