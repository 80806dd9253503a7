"""A look at a person's data: which form they have, and what is in their columns or folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from export.scaffold.model_look import ModelLook
from fedprune.data.folders import files_by_folder
from fedprune.data.loading import names_function
from fedprune.data.skipped import Unusable
from fedprune.data.tables.numbers import number
from fedprune.data.tables.rows import column_names, files_in, read_rows, row_files
from fedprune.data.tables.table import SUFFIXES
from fedprune.data.text.records import JSONL, read_records
from fedprune.errors import DataError
from fedprune.system.disk import why_unreadable
from fedprune.system.paths import path_text

MAX_DISTINCT = 2**10
"""Different cells of a column that are remembered."""

_FIRST_LINES = 100
"""Lines of a JSONL file whose fields count."""
_MOSTLY = 0.9
"""The part of a column's cells that are numbers, where it is one of numbers."""
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_RECORDINGS = frozenset({".wav"})


@dataclass
class Column:
    """What stands in a column: the cells that are not empty, the numbers among them, the different ones with their
    numbers, unless there are more than `MAX_DISTINCT`, and why the first that is no number is none."""

    name: str
    cells: int = 0
    numbers: int = 0
    integers: int = 0
    longest: int = 0
    distinct: dict[str, float | None] = field(default_factory=dict)
    fault: Unusable | None = None

    def take(self, cell: str) -> None:
        cell = cell.strip()
        if not cell:
            return
        self.cells += 1
        self.longest = max(self.longest, len(cell))
        value = self.distinct[cell] if cell in self.distinct else self._number(cell)
        if len(self.distinct) <= MAX_DISTINCT:
            self.distinct[cell] = value
        if value is not None:
            self.numbers += 1
            self.integers += value.is_integer()

    def _number(self, cell: str) -> float | None:
        try:
            return number(cell, self.name)
        except Unusable as unusable:
            self.fault = self.fault or unusable
            return None

    @property
    def is_numeric(self) -> bool:
        return bool(self.cells) and self.numbers >= _MOSTLY * self.cells

    @property
    def is_whole(self) -> bool:
        """True where all numbers are whole."""
        return self.is_numeric and self.integers == self.numbers


@dataclass(frozen=True)
class ArraysLook:
    """An ``.npz``, a directory of ``.npy`` files, or a function."""


@dataclass(frozen=True)
class RowsLook:
    """Rows of CSV or JSONL files, whose columns are in the order of the first file's header."""

    columns: dict[str, Column]
    is_jsonl: bool


@dataclass(frozen=True)
class FoldersLook:
    """Files in folders by class: each folder's files, of pictures or of recordings. `notes` are for the person."""

    folders: dict[str, list[Path]]
    of_recordings: bool
    notes: tuple[str, ...] = ()


DataLook = ArraysLook | RowsLook | FoldersLook


def check_there(path: Path) -> None:
    """Raise `DataError` if there is nothing to look at."""
    if not names_function(path) and path.suffix != ".npz" and not path.exists():
        raise DataError(
            f"{path_text(path)}: {why_unreadable(path) or 'not there'}; name your examples with --data: an .npz, .csv "
            "or .jsonl file, or a directory"
        )


def look_at_data(path: Path, model: ModelLook) -> DataLook:
    """Raises `DataError` for what is none of the forms that a task may have."""
    check_there(path)
    if names_function(path) or path.suffix == ".npz":
        return ArraysLook()
    if not path.is_dir():
        return _rows(row_files(path, (*SUFFIXES, *JSONL)))
    if files_in(path, (".npy",)):
        return ArraysLook()
    for suffixes in (SUFFIXES, JSONL):
        if files := files_in(path, suffixes):
            return _folders_beside(path, files, model) or _rows(files)
    return _folders(path)


def _folders_beside(path: Path, rows: list[Path], model: ModelLook) -> FoldersLook | None:
    """The folders beside files of rows, if it is these that the model takes: only an image has three axes, and what has
    two is a window of rows unless there is a folder for each class."""
    axes, outputs = len(model.inputs[0]), model.outputs[0].shape[-1:]
    if axes < 2:
        return None
    try:
        look = _folders(path)
    except DataError:
        return None
    if axes == 2 and len(look.folders) != max((2, *outputs)):
        return None
    return replace(look, notes=(*look.notes, f"{path_text(rows[0].name)} is not read, but the folders beside it"))


def _rows(files: list[Path]) -> RowsLook:
    is_jsonl = files[0].suffix.lower() in JSONL
    names = _fields(files[0]) if is_jsonl else column_names(files[0])
    if not names or len(set(names)) < len(names):
        raise DataError(
            f"{path_text(files[0])}: its first line must have the names of the columns, each of them once; found are: "
            f"{path_text(', '.join(names)[:80])}"
        )
    columns = {name: Column(name) for name in names}
    for cells in _cells(files, names):
        for column, cell in zip(columns.values(), cells, strict=True):
            column.take(cell)
    if not any(column.cells for column in columns.values()):
        raise DataError(f"{path_text(files[0])}: no row under its header {path_text(', '.join(names)[:80])}")
    return RowsLook(columns, is_jsonl)


def _cells(files: list[Path], names: list[str]) -> Iterator[tuple[str, ...]]:
    for file in files:
        for row in read_records(file, names) if file.suffix.lower() in JSONL else read_rows(file, names):
            try:
                yield row.cells
            except Unusable:
                continue  # reading them for good tells what is wrong with it


def _fields(path: Path) -> list[str]:
    """The fields that hold text or a number in most of the first lines of a JSONL file."""
    counts: Counter[str] = Counter()
    lines = 0
    try:
        with path.open("rb") as file:
            for line in islice(file, _FIRST_LINES):
                try:
                    record = msgspec.json.decode(line, type=dict[str, Any])
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue
                lines += 1
                counts.update(name for name, value in record.items() if isinstance(value, str | int | float))
    except OSError as error:
        raise DataError(f"{path_text(path)}: {error.strerror}; make the file readable") from error
    return [name for name, count in counts.items() if count >= _MOSTLY * lines]


def _folders(path: Path) -> FoldersLook:
    folders = files_by_folder(path)
    pictures, recordings = (
        {name: count for name, files in folders.items() if (count := _count(files, suffixes))}
        for suffixes in (_PICTURES, _RECORDINGS)
    )
    if not pictures and not recordings:
        raise DataError(
            f"{path_text(path)}: it holds neither .npy, .csv nor .jsonl files, nor folders with pictures or .wav "
            "files; put files into a folder for each class"
        )
    of_recordings = sum(recordings.values()) > sum(pictures.values())
    kind, held = (".wav file", recordings) if of_recordings else ("picture", pictures)
    notes: tuple[str, ...] = ()
    if left := [path_text(name) for name in folders if name not in held]:
        notes = (f"{len(left)} folders are left out, since no {kind} is in them: {', '.join(left)[:80]}",)
    return FoldersLook({name: folders[name] for name in held}, of_recordings, notes)


def _count(files: list[Path], suffixes: frozenset[str]) -> int:
    return sum(file.suffix.lower() in suffixes for file in files)
