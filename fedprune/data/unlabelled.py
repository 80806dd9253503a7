"""Examples without labels, as a model that is in use gets them: one after another, each with its place.

The same readers as for training, and so the same numbers. What cannot be used is told at its place, and the rest goes
on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.data.description import Arrays, Data, Images, Recordings, Series, Table, Text
from fedprune.data.loading import names_function
from fedprune.data.normalization import fills_missing
from fedprune.data.npz import load_inputs
from fedprune.data.skipped import Unusable
from fedprune.data.tables.rows import Row
from fedprune.errors import DataError
from fedprune.model.tensors import Inputs
from fedprune.system.paths import path_text


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """The arrays of one example by their names, each of an example's shape; None, and a `fault`, if it cannot be used.
    `place` is its file, its line, or its number."""

    place: str
    inputs: Mapping[str, Inputs] | None
    fault: str = ""


def read_unlabelled(path: Path, data: Data) -> Iterator[Unlabelled]:
    """The examples in a file, or in a directory of files, before normalisation. Labels that are there are ignored.

    An `.npz` and a function may stand in for files of any form. Raises `DataError` where there is nothing.
    """
    if names_function(path):
        from fedprune.data.function import call_function

        yield from _arrays(call_function(path).inputs)
        return
    if path.suffix == ".npz" or isinstance(data, Arrays):
        yield from _arrays(load_inputs(path, path_text(path)))
        return
    # A device takes only its own form's reader into its memory.
    match data:
        case Table():
            yield from _rows(path, data)
        case Series():
            yield from _windows(path, data)
        case Images():
            from fedprune.data.images import picture_reader

            decode = picture_reader(data)
            yield from _files(path, lambda file: np.divide(decode(file), 255, dtype=np.float32))
        case Recordings():
            yield from _files(path, _recording_reader(data))
        case Text():
            yield from _texts(path, data)


def _arrays(arrays: Mapping[str, Inputs]) -> Iterator[Unlabelled]:
    for number in range(len(next(iter(arrays.values())))):
        yield Unlabelled(f"example {number}", {name: array[number] for name, array in arrays.items()})


def _one(place: str, make: Callable[[], NDArray[Any]]) -> Unlabelled:
    try:
        return Unlabelled(place, {"x": make()})
    except Unusable as unusable:
        return Unlabelled(place, None, str(unusable))


def _rows(path: Path, table: Table) -> Iterator[Unlabelled]:
    from fedprune.data.tables.numbers import numbers
    from fedprune.data.tables.rows import read_rows, row_files
    from fedprune.data.tables.table import SUFFIXES

    may_lack = fills_missing(table)

    def read(row: Row) -> NDArray[np.float32]:
        return np.array(numbers(row.cells, table.inputs, may_lack=may_lack), np.float32)

    for file in row_files(path, SUFFIXES):
        for row in read_rows(file, table.inputs):
            yield _one(row.where, lambda row=row: read(row))  # type: ignore[misc]


@dataclass
class _Stretch:
    """Rows of one group as far as windows may still need them; `rest` rows are to be left out."""

    rows: list[list[float]] = field(default_factory=list)
    rest: int = 0


def _windows(path: Path, series: Series) -> Iterator[Unlabelled]:
    """Windows as `fedprune.data.tables.series` cuts them, but that classes are not known and end none."""
    from fedprune.data.tables.rows import read_rows, row_files
    from fedprune.data.tables.table import SUFFIXES

    columns = (*series.inputs, *([] if series.group is None else [series.group]))
    for file in row_files(path, SUFFIXES):
        stretches: dict[str, _Stretch] = {}
        for row in read_rows(file, columns):
            yield from _take_row(row, series, stretches)


def _take_row(row: Row, series: Series, stretches: dict[str, _Stretch]) -> Iterator[Unlabelled]:
    """Add a row to its group's stretch: the window that it completes, or its fault, where time jumps."""
    from fedprune.data.tables.numbers import numbers
    from fedprune.data.tables.series import MAX_GROUPS

    group: str | None = None
    try:
        cells = row.cells
        group = "" if series.group is None else cells[-1].strip()
        x = numbers(cells[: len(series.inputs)], series.inputs, may_lack=fills_missing(series))
    except Unusable as unusable:
        if group is None:
            stretches.clear()
        else:
            stretches.pop(group, None)
        yield Unlabelled(row.where, None, str(unusable))
        return
    if group not in stretches and len(stretches) == MAX_GROUPS:
        raise DataError(
            f"{row.where}: more than {MAX_GROUPS} groups in one file; is {series.group!r} the right column?"
        )
    stretch = stretches.setdefault(group, _Stretch())
    if stretch.rest:
        stretch.rest -= 1
        return
    stretch.rows.append(x)
    if len(stretch.rows) == series.window:
        yield Unlabelled(f"the window until {row.where}", {"x": np.array(stretch.rows, np.float32)})
        stretch.rest = max(0, series.stride - series.window)
        del stretch.rows[: series.stride]


def _texts(path: Path, text: Text) -> Iterator[Unlabelled]:
    from fedprune.data.tables.rows import row_files
    from fedprune.data.tables.table import SUFFIXES
    from fedprune.data.text.records import JSONL, read_records
    from fedprune.data.text.text import check_text
    from fedprune.data.text.tokenizers import token_ids

    def ids(written: str) -> NDArray[np.int32]:
        check_text(written, text.text)
        return token_ids(written, text.length, text.tokenizer)

    for file in row_files(path, (*SUFFIXES, *JSONL)):
        for row in read_records(file, (text.text,)):
            yield _one(row.where, lambda row=row: ids(row.cells[0]))  # type: ignore[misc]


def _recording_reader(recordings: Recordings) -> Callable[[Path], NDArray[np.float32]]:
    from fedprune.data.audio.front_end import features
    from fedprune.data.audio.wav import read_wav

    def read(file: Path) -> NDArray[np.float32]:
        sound = read_wav(file, recordings.rate_hz, recordings.samples)
        return features(sound, recordings.rate_hz, recordings.front_end)

    return read


def _files(path: Path, read: Callable[[Path], NDArray[np.float32]]) -> Iterator[Unlabelled]:
    """A file, or all files in a directory and in those below it, by name; hidden ones are left out."""
    for file in _below(path):
        yield _one(path_text(file), lambda file=file: read(file))  # type: ignore[misc]


def _below(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        if not path.is_file():
            raise DataError(f"{path_text(path)}: there is no such file; name a file, or a directory of them")
        yield path
        return
    count = 0
    for directory, folders, names in os.walk(path):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        for name in sorted(names):
            file = Path(directory, name)
            if not name.startswith(".") and file.is_file():
                count += 1
                yield file
    if not count:
        raise DataError(f"{path_text(path)}: no file is in it; name a directory with some")
