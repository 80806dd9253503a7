"""Examples that are texts: token ids by the task's tokeniser, and a label."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedprune.data.dataset import Examples
from fedprune.data.description import Text
from fedprune.data.example_buffer import ExampleBuffer
from fedprune.data.labels import LabelColumn
from fedprune.data.room import IN_MEMORY, Room
from fedprune.data.skipped import Fault, Skipped, Unusable
from fedprune.data.tables.numbers import is_text
from fedprune.data.tables.rows import count_lines, row_files
from fedprune.data.tables.table import SUFFIXES
from fedprune.data.text.records import JSONL, read_records
from fedprune.data.text.tokenizers import token_ids
from fedprune.system.paths import path_text


def read_text(path: Path, text: Text, room: Room = IN_MEMORY) -> Examples:
    """x int32 `[texts, length]`, y int64 `[texts]` or float32 `[texts, 1]`, of a CSV or JSONL file, or a directory of
    them.

    Rows that cannot be used are skipped and counted; a text of no tokens is one. Raises `DataError` if there is no
    other.
    """
    files = row_files(path, (*SUFFIXES, *JSONL))
    skipped = Skipped(path_text(path))
    labels = LabelColumn(text.label, text.labels)
    most = count_lines(files)
    examples = ExampleBuffer(text.example_shape, np.int32, most, room, of_classes=labels.of_classes)
    for file in files:
        for row in read_records(file, (text.text, text.label)):
            try:
                written, label = row.cells
                check_text(written, text.text)
                x, y = token_ids(written, text.length, text.tokenizer), labels.read(label)
            except Unusable as unusable:
                skipped.add(row.where, unusable)
            else:
                examples.add(x, y)
    return skipped.finish(examples)


def check_text(written: str, column: str) -> None:
    """Raise `Unusable` for a cell that holds no text."""
    if not written.strip():
        raise Unusable(Fault.EMPTY, f"column {column!r} is empty; fill it in or remove the row")
    if not is_text(written):
        raise Unusable(Fault.ENCODING, f"column {column!r} is not text in UTF-8; save the file in UTF-8")
