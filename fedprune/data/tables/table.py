"""Examples that are rows of CSV files: a number in each input column, and a label."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedprune.data.dataset import Examples
from fedprune.data.description import Table
from fedprune.data.example_buffer import ExampleBuffer
from fedprune.data.labels import LabelColumn
from fedprune.data.normalization import fills_missing
from fedprune.data.room import IN_MEMORY, Room
from fedprune.data.skipped import Skipped, Unusable
from fedprune.data.tables.numbers import numbers
from fedprune.data.tables.rows import count_lines, read_rows, row_files
from fedprune.system.paths import path_text

SUFFIXES = (".csv", ".tsv")


def read_table(path: Path, table: Table, room: Room = IN_MEMORY) -> Examples:
    """x float32 `[rows, inputs]`, y int64 `[rows]` or float32 `[rows, 1]`, of a CSV file or a directory of them.

    Rows that cannot be used are skipped and counted. Raises `DataError` if there is no other. Where the mean stands in
    for what is missing, x is NaN there.
    """
    files = row_files(path, SUFFIXES)
    skipped = Skipped(path_text(path))
    labels, may_lack = LabelColumn(table.label, table.labels), fills_missing(table)
    most = count_lines(files)
    examples = ExampleBuffer(table.example_shape, np.float32, most, room, of_classes=labels.of_classes)
    for file in files:
        for row in read_rows(file, (*table.inputs, table.label)):
            try:
                *cells, label = row.cells
                x, y = numbers(cells, table.inputs, may_lack=may_lack), labels.read(label)
            except Unusable as unusable:
                skipped.add(row.where, unusable)
            else:
                examples.add(x, y)
                skipped.note_missing(row.where, table.inputs, x)
    return skipped.finish(examples)
