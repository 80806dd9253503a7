"""The one way from files to examples: a path, which is a machine's own, and a description, which is the task's."""

from __future__ import annotations

from pathlib import Path

from fedprune.data.arrays import Arrays
from fedprune.data.audio.recordings import Recordings, read_recordings
from fedprune.data.dataset import Dataset
from fedprune.data.description import Data
from fedprune.data.folders import count_files
from fedprune.data.function import call_function, names_function
from fedprune.data.images import Images, read_images
from fedprune.data.normalization import normalize
from fedprune.data.npz import count_examples, load_npz
from fedprune.data.tables.rows import count_lines, row_files
from fedprune.data.tables.series import Series, read_series
from fedprune.data.tables.table import SUFFIXES, Table, read_table
from fedprune.data.text.records import JSONL
from fedprune.data.text.text import Text, read_text
from fedprune.errors import DataError
from fedprune.system.paths import path_text

_ROWS = (*SUFFIXES, *JSONL)


def load_examples(path: Path, data: Data) -> Dataset:
    """The examples as the task's model takes them: read, and normalised if the task says so.

    What cannot be used where the rest is good is skipped, counted and logged. Raises `DataError` for all else.
    """
    dataset = read_examples(path, data)
    if not isinstance(data, Text) and data.normalize is not None:
        normalize(dataset, data.normalize)
    return dataset


def read_examples(path: Path, data: Data) -> Dataset:
    """The examples before normalisation, as an `.npz` of them holds them.

    An `.npz`, or a function that returns arrays, may stand in for files of any form. Raises `DataError`.
    """
    if names_function(path):
        return call_function(path)
    if path.suffix == ".npz":
        return load_npz(path)
    match data:
        case Arrays():
            return load_npz(path)
        case Table():
            return read_table(path, data)
        case Series():
            return read_series(path, data)
        case Images():
            return read_images(path, data)
        case Recordings():
            return read_recordings(path, data)
        case Text():
            return read_text(path, data)


def most_examples(path: Path) -> int:
    """The most examples that a path can give, whatever the task: an agent says so before it has seen one.

    Arrays and what a function returns are checked and counted; of rows the lines are, of folders the files. Raises
    `DataError` where there is nothing.
    """
    count = _most(path)
    if not count:
        raise DataError(f"{path_text(path)}: it holds nothing; name this device's examples")
    return count


def _most(path: Path) -> int:
    if names_function(path):
        return len(call_function(path))
    if path.is_dir():
        holds_rows = any(file.suffix.lower() in _ROWS for file in path.iterdir())
        return count_lines(row_files(path, _ROWS)) if holds_rows else count_files(path)
    if path.suffix.lower() in _ROWS:
        return count_lines(row_files(path, _ROWS))
    return count_examples(path)
