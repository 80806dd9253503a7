"""Examples that are windows over the rows of CSV files, as sensors write them: one row for each point in time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedprune.data.dataset import Dataset
from fedprune.data.description import Series
from fedprune.data.example_buffer import ExampleBuffer
from fedprune.data.labels import LabelColumn
from fedprune.data.normalization import fills_missing
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
        self._may_lack = fills_missing(series)
        self._open: dict[str, _Stretch] = {}
        self.groups: list[str] = []
        """The group of each window that was added."""

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
            stretch = self._open[group] = _Stretch(where, y)
        if stretch.rest:
            stretch.rest -= 1
            return
        stretch.rows.append(x)
        if len(stretch.rows) == self._series.window:
            self._examples.add(stretch.rows, y)
            self.groups.append(group)
            stretch.windows += 1
            stretch.rest = max(0, self._series.stride - self._series.window)
            del stretch.rows[: self._series.stride]

    def _end(self, group: str) -> None:
        stretch = self._open.pop(group, None)
        if stretch is not None and not stretch.windows:
            what = f"{len(stretch.rows)} rows from there on, and a window takes {self._series.window}"
            self._skipped.add(stretch.where, Unusable(Fault.SHORT, f"{what}; record for longer without a gap"))


def read_series(path: Path, series: Series) -> Dataset:
    """x float32 `[windows, window, inputs]`, y int64 `[windows]` or float32 `[windows, 1]`, of a CSV file or a
    directory of them.

    Rows that cannot be used are skipped and counted. Raises `DataError` if no window is left. Where the mean stands in
    for what is missing, x is NaN there.
    """
    return read_grouped(path, series)[0]


def read_grouped(path: Path, series: Series) -> tuple[Dataset, NDArray[np.int64]]:
    """What `read_series` gives, and the number of each window's group, int64 `[windows]`: groups with one name are one,
    in whichever file they are. Without a column of groups each file is one."""
    files = row_files(path, SUFFIXES)
    skipped = Skipped(path_text(path))
    labels = LabelColumn(series.label, series.labels)
    most = max(1, count_lines(files) // min(series.window, series.stride))
    examples = ExampleBuffer(series.example_shape, np.float32, most, of_classes=labels.of_classes)
    windows = _Windows(series, labels, skipped, examples)
    columns = (*series.inputs, series.label, *([] if series.group is None else [series.group]))
    owners: list[str] = []
    for file in files:
        for row in read_rows(file, columns):
            windows.take(row)
        windows.end()
        owners += [file.name if series.group is None else group for group in windows.groups[len(owners) :]]
    dataset = skipped.finish(examples)
    return dataset, np.unique(owners[: len(dataset)], return_inverse=True)[1].astype(np.int64)
