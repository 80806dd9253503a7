"""Rows of CSV files with a header: the cells of the columns that a task names, as text.

A file is read line by line. Its separator is the one of , ; tab and | under which the header has the task's columns.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fedprune.data.skipped import Fault, Unusable, brief
from fedprune.errors import DataError
from fedprune.system.disk import why_unreadable
from fedprune.system.paths import path_text

MAX_FILES = 2**16
"""Files of rows in one directory."""

MAX_LINE = 2**20
"""Bytes of a line: more is no table. A cell holds at most the csv module's 131,072 characters."""

_SEPARATORS = ",;\t|"
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_PART = 2**20


@dataclass(frozen=True)
class Row:
    """The cells of a row in the order in which its columns were asked for, or the fault for which it has none."""

    where: str
    _cells: tuple[str, ...]
    _fault: Unusable | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """Raises `Unusable` for a row that has a fault."""
        if self._fault is not None:
            raise self._fault
        return self._cells


def row_files(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """The file itself, or those of a directory that end so, sorted by name. Raises `DataError` if there is none."""
    if not path.is_dir():
        if why := why_unreadable(path):
            raise DataError(f"{path_text(path)}: {why}; name a {' or '.join(suffixes)} file, or a directory of them")
        if path.suffix.lower() not in suffixes:
            raise DataError(f"{path_text(path)}: the task learns from {' or '.join(suffixes)} files; name one")
        return [path]
    files = files_in(path, suffixes)
    if not files:
        raise DataError(f"{path_text(path)}: no {' or '.join(suffixes)} file is in it; name a directory with some")
    if len(files) > MAX_FILES:
        raise DataError(f"{path_text(path)}: more than {MAX_FILES} files; join some of them")
    return files


def files_in(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a directory that end so, sorted by name. Raises `DataError` for one that cannot be read."""
    try:
        return sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes and file.is_file())
    except OSError as error:
        raise DataError(f"{path_text(path)}: {error.strerror}; make the directory readable") from error


def count_lines(files: Sequence[Path]) -> int:
    """Count lines, the last one of each file also without an end. Raises `DataError` for a file that cannot be read."""
    count = 0
    for path in files:
        try:
            with path.open("rb") as file:
                last = b"\n"
                while part := file.read(_PART):
                    count += part.count(b"\n")
                    last = part[-1:]
                count += last != b"\n"
        except OSError as error:
            raise DataError(f"{path_text(path)}: {error.strerror}; make the file readable") from error
    return count


def column_names(path: Path) -> list[str]:
    """The names in a file's header, under the separator that makes the most of it. Raises `DataError`."""
    try:
        with path.open("rb") as file:
            header = file.readline(MAX_LINE + 1)
        text = _text(header.removeprefix(_BOM))
    except OSError as error:
        raise DataError(f"{path_text(path)}: {error.strerror}; make the file readable") from error
    except Unusable as fault:
        raise DataError(f"{path_text(path)}: {fault}") from None
    return max((_names(text, separator) for separator in _SEPARATORS), key=len)


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of one file. Whatever is wrong with a row, or with the whole file, is a row with a fault."""
    name = path_text(path.name)
    try:
        with path.open("rb") as file:
            header = file.readline(MAX_LINE + 1)
            separator, places, width = _layout(header, columns)
            reader = csv.reader(text_lines(file), delimiter=separator, strict=True)
            yield from _rows(reader, name, places, width)
    except Unusable as fault:
        yield Row(name, (), fault)
    except OSError as error:
        yield Row(name, (), Unusable(Fault.DAMAGED, f"{error.strerror}; make the file readable"))


def text_lines(file: BinaryIO) -> Iterator[str]:
    """Lines as text; bytes that are not UTF-8 become lone surrogates. Raises `Unusable` for a line that is too long."""
    while line := file.readline(MAX_LINE + 1):
        yield _text(line)


def _rows(reader: Any, name: str, places: Sequence[int], width: int) -> Iterator[Row]:
    """The rows of a csv.reader; `places` are the columns, `width` the cells of the header."""
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(_line(name, reader), (), Unusable(Fault.QUOTES, f"{brief(error)}; correct its quotes"))
            continue
        if any(cells[width:]):
            yield Row(_line(name, reader), (), _too_many(cells, width))
        elif cells:
            yield Row(_line(name, reader), tuple(cells[place] if place < len(cells) else "" for place in places))


def _line(name: str, reader: Any) -> str:
    return f"{name}, line {reader.line_num + 1}"  # the header was read before


def _too_many(cells: Sequence[str], width: int) -> Unusable:
    return Unusable(
        Fault.CELLS,
        f"{len(cells)} cells, the header has {width}; put cells with a separator in quotes, and write decimal points",
    )


def _layout(header: bytes, columns: Sequence[str]) -> tuple[str, list[int], int]:
    """The separator, the place of each column, and the number of cells. Raises `Unusable` for a file without them."""
    if header.startswith(_UTF_16):
        raise Unusable(Fault.DAMAGED, "in UTF-16; save it in UTF-8")
    text = _text(header.removeprefix(_BOM))
    found = {separator: _names(text, separator) for separator in _SEPARATORS}
    separator = max(found, key=lambda candidate: (len(set(columns) & set(found[candidate])), len(found[candidate])))
    names = found[separator]
    for column in columns:
        if names.count(column) != 1:
            problem = "no column" if column not in names else "two columns"
            raise Unusable(
                Fault.COLUMNS,
                f"it has {problem} {column!r} (its first line: {brief(', '.join(names))}); correct the names there, "
                "which must be the task's",
            )
    return separator, [names.index(column) for column in columns], len(names)


def _names(header: str, separator: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
    except csv.Error:
        return []


def _text(line: bytes) -> str:
    if len(line) > MAX_LINE:
        raise Unusable(Fault.TOO_LARGE, f"a line has more than {MAX_LINE} bytes; end lines with a line feed")
    return line.decode("utf-8", "surrogateescape")
