"""Examples that are windows over the rows of CSV files, as sensors write them: one row for each point in time."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedprune.data.dataset import Examples, Provenance
from fedprune.data.description import Series
from fedprune.data.example_buffer import ExampleBuffer
from fedprune.data.labels import LabelColumn
from fedprune.data.normalization import fills_missing
from fedprune.data.room import IN_MEMORY, Room
from fedprune.data.skipped import Fault, Skipped, Unusable
from fedprune.data.tables.numbers import numbers
from fedprune.data.tables.rows import Row, count_lines, read_rows, row_files
from fedprune.data.tables.table import SUFFIXES
from fedprune.errors import DataError
from fedprune.system.paths import path_text

MAX_GROUPS = 2**12
"""Groups of a file whose windows are open at a time: each holds up to a window of rows."""


@dataclass
class _Stretch:
    """Rows of one group and class, as far as windows may still need them; `rest` rows are to be left out."""

    where: str
    number: int
    label: float
    rows: list[list[float]] = field(default_factory=list)
    rest: int = 0
    windows: int = 0


class _Windows:
    """Cuts windows out of rows as they come."""

    def __init__(self, series: Series, labels: LabelColumn, skipped: Skipped, examples: ExampleBuffer) -> None:
        self._series = series
        self._labels = labels
        self._skipped = skipped
        self._examples = examples
        self._file = ""
        self._may_lack = fills_missing(series)
        self._open: dict[str, _Stretch] = {}
        self._stretches = 0
        self._groups: dict[str, int] = {}
        self._of_groups, self._of_stretches = array("i"), array("i")

    def begin(self, file: str) -> None:
        """The rows of a file follow."""
        self._file = file

    def take(self, row: Row) -> None:
        """Add a row to its group's stretch. Without a fault in its numbers or label no other group's is ended."""
        try:
            cells = row.cells
        except Unusable as unusable:
            self._skipped.add(row.where, unusable)
            self.end()
            return
        count = len(self._series.inputs)
        group = "" if self._series.group is None else cells[-1].strip()
        if self._series.group is not None and not group:  # it may be anybody's
            what = f"column {self._series.group!r} is empty; fill it in or remove the row"
            self._skipped.add(row.where, Unusable(Fault.EMPTY, what))
            self.end()
            return
        try:
            x = numbers(cells[:count], self._series.inputs, may_lack=self._may_lack)
            y = self._labels.read(cells[count])
        except Unusable as unusable:
            self._skipped.add(row.where, unusable)
            self._end(group)
            return
        self._skipped.note_missing(row.where, self._series.inputs, x)
        self._add(group, x, y, row.where)

    def end(self) -> None:
        """End all stretches, as at the end of a file."""
        for group in list(self._open):
            self._end(group)

    @property
    def provenance(self) -> Provenance:
        """Of the windows that were added. Groups are numbered in the order of their names."""
        count = len(self._examples)
        places = {name: place for place, name in enumerate(sorted(self._groups))}
        numbers = np.array([places[name] for name in self._groups], np.int32)
        groups, stretches = (np.array(each[:count], np.int32) for each in (self._of_groups, self._of_stretches))
        overlap = -(-self._series.window // self._series.stride) - 1
        return Provenance(numbers[groups], stretches, overlap)

    def _add(self, group: str, x: list[float], y: float, where: str) -> None:
        stretch = self._open.get(group)
        if stretch is not None and self._labels.of_classes and stretch.label != y:
            self._end(group)
            stretch = None
        if stretch is None:
            if len(self._open) == MAX_GROUPS:
                raise DataError(
                    f"{where}: more than {MAX_GROUPS} groups in one file; is {self._series.group!r} the right column?"
                )
            stretch = self._open[group] = _Stretch(where, self._stretches, y)
            self._stretches += 1
        if stretch.rest:
            stretch.rest -= 1
            return
        stretch.rows.append(x)
        if len(stretch.rows) == self._series.window:
            self._examples.add(stretch.rows, y)
            name = self._file if self._series.group is None else group
            self._of_groups.append(self._groups.setdefault(name, len(self._groups)))
            self._of_stretches.append(stretch.number)
            stretch.windows += 1
            stretch.rest = max(0, self._series.stride - self._series.window)
            del stretch.rows[: self._series.stride]

    def _end(self, group: str) -> None:
        stretch = self._open.pop(group, None)
        if stretch is not None and not stretch.windows:
            what = f"{len(stretch.rows)} rows from there on, and a window takes {self._series.window}"
            self._skipped.add(stretch.where, Unusable(Fault.SHORT, f"{what}; record for longer without a gap"))


def read_series(path: Path, series: Series, room: Room = IN_MEMORY) -> Examples:
    """x float32 `[windows, window, inputs]`, y int64 `[windows]` or float32 `[windows, 1]`, of a CSV file or a
    directory of them.

    Their provenance is known: groups with one name are one, in whichever file they are; without a column of groups each
    file is one. Rows that cannot be used are skipped and counted. Raises `DataError` if no window is left. Where the
    mean stands in for what is missing, x is NaN there.
    """
    files = row_files(path, SUFFIXES)
    skipped = Skipped(path_text(path))
    labels = LabelColumn(series.label, series.labels)
    most = max(1, count_lines(files) // min(series.window, series.stride))
    examples = ExampleBuffer(series.example_shape, np.float32, most, room, of_classes=labels.of_classes)
    windows = _Windows(series, labels, skipped, examples)
    columns = (*series.inputs, series.label, *([] if series.group is None else [series.group]))
    for file in files:
        windows.begin(file.name)
        for row in read_rows(file, columns):
            windows.take(row)
        windows.end()
    return skipped.finish(examples).of(windows.provenance)
