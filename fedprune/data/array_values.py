"""What examples and labels are made of, of an array in a file: checked part by part, in the dtype that models take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fedprune.data.array_files import ArrayFile
from fedprune.data.stored_rows import Change
from fedprune.errors import DataError
from fedprune.model.tensors import Array

MAX_CLASSES = 2**16

_LARGEST_ID = 2**31 - 1

Parts = Iterator[tuple[int, NDArray[Any]]]
"""An array's scalars in the file's order, part by part, each with the position of the first one."""


@dataclass(frozen=True, eq=False)
class Kind:
    """What an array holds: the dtype in memory, what a part becomes, and the check of all parts, which yields what they
    become. It raises `DataError`, of what only the whole array tells after the last one."""

    dtype: type[Any]
    change: Change
    parts: Callable[[ArrayFile], Parts]


class MissingValues:
    """The missing values of inputs, NaN: so many as a file announces, and as were found. None announced: NaN is a
    fault."""

    def __init__(self, announced: int) -> None:
        self.announced = announced
        self.found = 0

    def parts(self, array: ArrayFile) -> Parts:
        """An array's numbers, in which missing ones are counted."""
        for start, values in _finite(array, _as_numbers, may_lack=self.announced > 0):
            self.found += int(np.count_nonzero(np.isnan(values)))
            yield start, values

    def check(self) -> None:
        """Raise `DataError` unless all inputs together lack what was announced."""
        if self.found != self.announced:
            raise DataError(
                f"{self.found} numbers of x are missing (NaN), and missing says {self.announced}; correct one of them"
            )


def kind_of_input(array: ArrayFile, missing: MissingValues) -> Kind:
    """Token ids are integers, but for uint8: that is pixels, which are divided by 255."""
    is_ids = array.dtype.kind in "iu" and array.dtype != np.uint8
    return _IDS if is_ids else Kind(np.float32, _as_numbers, missing.parts)


def kind_of_label(array: ArrayFile) -> Kind:
    return _FLOATS if array.dtype.kind == "f" else _INTEGERS


def joined(array: ArrayFile, kind: Kind) -> NDArray[Any]:
    """The whole array in memory, in C order."""
    flat = np.empty(array.scalars, kind.dtype)
    for start, part in kind.parts(array):
        flat[start : start + len(part)] = part
    return np.ascontiguousarray(flat.reshape(array.shape, order="F" if array.fortran_order else "C"))


def _as_float32(part: NDArray[Any]) -> Array:
    with np.errstate(over="ignore"):
        return part.astype(np.float32)


def _as_numbers(part: NDArray[Any]) -> Array:
    values = _as_float32(part)
    if part.dtype == np.uint8:
        values /= np.float32(255)
    return values


def _as_ids(part: NDArray[Any]) -> NDArray[np.int32]:
    return part.astype(np.int32)


def _as_integers(part: NDArray[Any]) -> NDArray[np.int64]:
    return part.astype(np.int64)


def _finite(array: ArrayFile, change: Change, *, may_lack: bool = False) -> Parts:
    count, scalars = array.shape[0], array.scalars
    spoilt = np.zeros(count, np.bool_)
    for start, part in array.parts():
        values = change(part)
        wrong = start + np.flatnonzero(np.isinf(values) if may_lack else ~np.isfinite(values))
        spoilt[wrong % count if array.fortran_order else wrong // (scalars // count)] = True
        yield start, values
    if spoilt.any():
        raise DataError(
            f"{np.count_nonzero(spoilt)} examples of {array.name} hold NaN, infinity or more than float32 can, the "
            f"first is example {spoilt.argmax()}; correct or remove them"
        )


def _floats(array: ArrayFile) -> Parts:
    return _finite(array, _as_float32)


def _ids(array: ArrayFile) -> Parts:
    """Whether a model knows them is for `fit_to` to say."""
    for start, part in array.parts():
        part = cast(NDArray[np.integer[Any]], part)
        wrong = np.flatnonzero((part < 0) | (part > _LARGEST_ID))
        if len(wrong):
            raise DataError(
                f"{array.name} holds the integer {part[wrong[0]]}; token ids are from 0 to {_LARGEST_ID}: save other "
                "numbers as float32"
            )
        yield start, _as_ids(part)


def _whole(array: ArrayFile) -> Parts:
    for start, part in array.parts():
        if (np.abs(part.astype(np.float64)) > _LARGEST_ID).any():
            raise DataError(f"{array.name} holds an integer beyond {_LARGEST_ID}; number from 0")
        yield start, _as_ids(part)


def _integers(array: ArrayFile) -> Parts:
    single = array.scalars == array.shape[0]
    lowest, highest = (0, MAX_CLASSES - 1) if single else (-_LARGEST_ID, _LARGEST_ID)
    smallest = largest = 0
    for start, part in array.parts():
        smallest, largest = min(smallest, int(part.min())), max(largest, int(part.max()))
        yield start, _as_integers(part)
    if smallest < lowest or largest > highest:
        wrong = smallest if smallest < lowest else largest
        raise DataError(
            f"label {wrong} in {array.name} is out of range; "
            + (f"classes are numbered from 0 to at most {highest}" if single else f"integers are {highest} at most")
            + ": save numbers that are no classes as float32"
        )


def _weights(array: ArrayFile) -> Parts:
    for start, values in _floats(array):
        if (values < 0).any():
            first = int((values < 0).argmax())
            raise DataError(
                f"{array.name} is negative for example {start + first}; give it 0 if it is not to count, or leave it "
                "out"
            )
        yield start, values


_IDS = Kind(np.int32, _as_ids, _ids)
_FLOATS = Kind(np.float32, _as_float32, _floats)
_INTEGERS = Kind(np.int64, _as_integers, _integers)
SAMPLE_WEIGHTS = Kind(np.float32, _as_float32, _weights)
WHOLE_NUMBERS = Kind(np.int32, _as_ids, _whole)
