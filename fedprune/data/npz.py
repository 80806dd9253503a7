"""Arrays as examples: `x`, labels `y`, and perhaps a `weight` of each example, in an `.npz` or as `.npy` files.

Models of several inputs or outputs have an array for each: `x_NAME`, `y_NAME`. Where each example is from may be told
by integers: its `group`, its `stretch`, and by how many examples those of a stretch `overlap` (see `Provenance`). Where
numbers of `x` are missing they are NaN, and `missing` says how many; without it NaN is a fault. Data are read in parts,
so that nothing is ever held twice; what does not fit into memory stays where it is.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedprune.data.array_files import ArrayFile, ArrayFiles, array_files, brief
from fedprune.data.array_values import (
    SAMPLE_WEIGHTS,
    WHOLE_NUMBERS,
    Kind,
    MissingValues,
    joined,
    kind_of_input,
    kind_of_label,
)
from fedprune.data.dataset import Dataset, Examples, Provenance
from fedprune.data.room import IN_MEMORY, MAX_EXAMPLES, MAX_STORED_BYTES, Room
from fedprune.data.stored_rows import Rows, in_parts
from fedprune.errors import DataError
from fedprune.model.forms import MAX_ENDS, is_name
from fedprune.model.tensors import Inputs
from fedprune.system.disk import Directory

_WEIGHT, _GROUP, _STRETCH, _OVERLAP = "weight", "group", "stretch", "overlap"
_MISSING = "missing"

_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class _Arrays:
    """The arrays of examples. `weight` is None where there is none; `told` is what is told of where they are from. Of
    the inputs' numbers some may be `missing`."""

    inputs: tuple[ArrayFile, ...]
    labels: tuple[ArrayFile, ...]
    weight: ArrayFile | None
    told: tuple[ArrayFile, ...]
    missing: MissingValues

    @property
    def kinds(self) -> list[tuple[ArrayFile, Kind]]:
        """All of them, with what they hold."""
        inputs = [(array, kind_of_input(array, self.missing)) for array in self.inputs]
        labels = [(array, kind_of_label(array)) for array in self.labels]
        weight = [] if self.weight is None else [(self.weight, SAMPLE_WEIGHTS)]
        return inputs + labels + weight + [(array, WHOLE_NUMBERS) for array in self.told]


def load_npz(file: Path | BinaryIO, origin: str = "") -> Dataset:
    """Load `x` `[examples, ...]` and `y` `[examples, ...]`, or `x_NAME` and `y_NAME` for each input and output.

    `file` is an `.npz`, or a directory of `.npy` files. Messages call it `origin`, or else by its path.

    x: uint8 is divided by 255, as image models expect; floats are kept, as float32; larger integers are token ids,
    kept as int32. y: integers become int64, floats float32. One integer for each example is its class number, from 0;
    what several are (classes of places, one-hot rows, numbers) depends on the task. `weight` `[examples]`, if it is
    there, is how much each example counts in training, a number that is not negative.

    Raises `DataError` for a file that is missing or no .npz, lacks x or y, or holds arrays that cannot be examples
    and labels: wrong shapes or dtypes, different lengths, NaN or infinity, negative class numbers, nothing at all, or
    more than `MAX_BYTES`. Whether labels suit a task is for `fit_to` to say.
    """
    return open_npz(file, IN_MEMORY, origin).in_memory


def open_npz(file: Path | BinaryIO, room: Room, origin: str = "") -> Examples:
    """What `load_npz` loads, where not all of it need be in memory: the smallest arrays are, as far as `room` goes.

    Others are looked at once, and then read where they are; from a compressed `.npz` they are extracted before, into a
    working file.
    """
    with _opened(file, origin or str(file), room) as arrays:
        held = _that_fit(arrays, room)
        rows = {array.name: _rows(array, kind, array.name in held, room) for array, kind in arrays.kinds}
        arrays.missing.check()
        inputs, labels = ({array.name: rows[array.name] for array in these} for these in (arrays.inputs, arrays.labels))
        return Examples(inputs, labels, origin or str(file), rows.get(_WEIGHT), _provenance(rows))


def load_inputs(file: Path | BinaryIO, origin: str = "") -> dict[str, Inputs]:
    """The inputs that `load_npz` would load, by their names; of labels nothing is read, and there need be none."""
    with _opened(file, origin or str(file), IN_MEMORY, has_labels=False) as arrays:
        return {array.name: joined(array, kind) for array, kind in arrays.kinds if array in arrays.inputs}


def count_examples(file: Path | BinaryIO, origin: str = "") -> int:
    """Count the examples that `open_npz` would open. Raises for the same files, but holds no more than a part of an
    array."""
    with _opened(file, origin or str(file), Room(MAX_STORED_BYTES)) as arrays:
        for array, kind in arrays.kinds:
            for _ in kind.parts(array):
                pass
        arrays.missing.check()
        return arrays.labels[0].shape[0]


def save_npz(path: Path, examples: Examples) -> None:
    """Write what `load_npz` reads, whole or not at all. Equal data make equal bytes.

    Raises `StorageError` where the operating system refuses, for example when the disk is full.
    """
    others: dict[str, Rows] = {} if examples.weight is None else {_WEIGHT: examples.weight}
    if missing := _count_missing(examples):
        others[_MISSING] = np.array([missing])
    if (provenance := examples.provenance) is not None:
        others[_GROUP] = provenance.groups
        if provenance.stretches is not None:
            others |= {_STRETCH: provenance.stretches, _OVERLAP: np.array([provenance.overlap], np.int32)}

    def fill(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, rows in (*examples.inputs.items(), *examples.labels.items(), *others.items()):
                with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as member:
                    header = {"descr": npy.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": rows.shape}
                    npy.write_array_header_1_0(member, header)
                    for _, part in in_parts(rows):
                        member.write(np.ascontiguousarray(part).data)

    Directory(path.parent).write_through(path.name, fill)


@contextmanager
def _opened(file: Path | BinaryIO, origin: str, room: Room, *, has_labels: bool = True) -> Iterator[_Arrays]:
    """The arrays of a file, as examples need them. Whatever is wrong with it becomes a `DataError`."""
    with array_files(file, origin) as files:
        inputs = tuple(files.array(name) for name in _names(files, "x"))
        labels = tuple(files.array(name) for name in _names(files, "y")) if has_labels else ()
        weight = files.array(_WEIGHT) if _WEIGHT in files.headers else None
        _check_inputs(inputs)
        _check_labels(labels)
        _check_lengths(inputs, labels, weight, room)
        told = tuple(files.array(name) for name in (_GROUP, _STRETCH, _OVERLAP) if name in files.headers)
        _check_told(told, inputs[0].shape[0])
        yield _Arrays(inputs, labels, weight, told, MissingValues(_announced(files)))


def _names(files: ArrayFiles, letter: str) -> list[str]:
    """The arrays of all inputs, or outputs: the one that is called by the letter alone, or else those with a name
    after it."""
    found = files.headers
    several = [name for name in found if name.startswith(f"{letter}_") and is_name(name[2:])]
    if letter in found or not several:
        return [letter]
    if len(several) > MAX_ENDS:
        raise DataError(f"it has {len(several)} arrays {letter}_NAME; a model has at most {MAX_ENDS}")
    return several


def _check_inputs(inputs: Sequence[ArrayFile]) -> None:
    for x in inputs:
        if x.dtype.kind not in "iuf":
            raise DataError(
                f"{x.name} is {brief(x.dtype)}; save it as uint8 (pixels, 0 to 255), as float32, or token ids as int32"
            )
        if len(x.shape) < 2:
            raise DataError(
                f"{x.name} has shape {brief(x.shape)}; it must be [examples, ...], at least 2-D: reshape it"
            )


def _check_labels(labels: Sequence[ArrayFile]) -> None:
    for y in labels:
        if y.dtype.kind not in "biuf":
            raise DataError(
                f"{y.name} is {brief(y.dtype)}; save class numbers as int64, what else a model learns as float32"
            )
        if not y.shape:
            raise DataError(f"{y.name} has shape (); it must be [examples, ...], a label for each example: reshape it")


def _check_lengths(
    inputs: Sequence[ArrayFile], labels: Sequence[ArrayFile], weight: ArrayFile | None, room: Room
) -> None:
    first = inputs[0]
    for x in inputs[1:]:
        if x.shape[0] != first.shape[0]:
            raise DataError(
                f"{first.name} has {first.shape[0]} examples and {x.name} has {x.shape[0]}; they must match one to "
                "one: save as many, or for a model of one input a single array x"
            )
    for y in labels:
        if y.shape[0] != first.shape[0]:
            raise DataError(
                f"{first.name} has {first.shape[0]} examples and {y.name} has {y.shape[0]} labels; they must match one "
                "to one"
            )
    for members, least_bytes in ((inputs, 4), (labels, 8)):
        for member in members:
            if min(member.shape) < 1:
                raise DataError(
                    f"it is empty: {member.name} has shape {brief(member.shape)}; save at least one example"
                )
        most = room.most_bytes
        if sum(member.scalars * max(least_bytes, member.dtype.itemsize) for member in members) > most:
            shapes = " and ".join(f"{member.name} has shape {brief(member.shape)}" for member in members)
            raise DataError(f"{shapes}, more than {most >> 20} MiB in memory; split the file")
    if first.shape[0] > MAX_EXAMPLES:
        raise DataError(f"{first.shape[0]} examples, at most {MAX_EXAMPLES} are read; split the file")
    if weight is not None and (weight.shape != first.shape[:1] or weight.dtype.kind not in "iuf"):
        raise DataError(
            f"{_WEIGHT} is {brief(weight.dtype)} of shape {brief(weight.shape)}; it must be a number for each of the "
            f"{first.shape[0]} examples"
        )


def _announced(files: ArrayFiles) -> int:
    """The number of missing values that the file announces."""
    if _MISSING not in files.headers:
        return 0
    array = files.array(_MISSING)
    if array.scalars != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{_MISSING} is {brief(array.dtype)} of shape {brief(array.shape)}; it must be one integer")
    ((_, value),) = array.parts()
    return int(cast(NDArray[np.integer[Any]], value)[0])


def _count_missing(examples: Examples) -> int:
    numbers = (x for x in examples.inputs.values() if x.dtype == np.float32)
    return sum(int(np.count_nonzero(np.isnan(part))) for x in numbers for _, part in in_parts(x))


def _check_told(told: Sequence[ArrayFile], count: int) -> None:
    for array in told:
        numbers = 1 if array.name == _OVERLAP else count
        if array.dtype.kind not in "iu" or array.scalars != numbers:
            raise DataError(
                f"{array.name} is {brief(array.dtype)} of shape {brief(array.shape)}; it must be {numbers} integers, "
                "or have another name"
            )


def _provenance(rows: Mapping[str, Any]) -> Provenance | None:
    """Where examples are from, also if that is a column `[examples, 1]`. A stretch of which no group is told is one of
    its own."""
    told: dict[str, Any] = {name: rows[name].reshape(-1) for name in (_GROUP, _STRETCH, _OVERLAP) if name in rows}
    if _GROUP not in told and _STRETCH not in told:
        return None
    overlap = max(0, int(told[_OVERLAP][0])) if _OVERLAP in told else 0
    return Provenance(told[_GROUP if _GROUP in told else _STRETCH], told.get(_STRETCH), overlap)


def _that_fit(arrays: _Arrays, room: Room) -> set[str]:
    """The names of those that are taken into memory: all, or the smallest ones as far as there is room."""
    sizes = {array.name: array.scalars * np.dtype(kind.dtype).itemsize for array, kind in arrays.kinds}
    if room.directory is None:
        return set(sizes)
    fitting, total = {_WEIGHT, _GROUP, _STRETCH, _OVERLAP}, 0
    for name, size in sorted(sizes.items(), key=lambda item: item[1]):
        total += size
        if room.holds(total):
            fitting.add(name)
    return fitting


def _rows(array: ArrayFile, kind: Kind, in_memory: bool, room: Room) -> Any:
    if in_memory:
        return joined(array, kind)
    if array.fortran_order:
        raise DataError(
            f"{array.name} is in Fortran's order, and takes more memory than examples may here; save "
            f"numpy.ascontiguousarray({array.name})"
        )
    if array.on_disk is None:
        array = replace(array, copy=room.working_file(array.scalars * array.dtype.itemsize, array.name))
    for _ in kind.parts(array):
        pass
    return array.stored_rows(kind.change, kind.dtype)
