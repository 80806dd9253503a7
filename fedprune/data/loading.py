"""The one way from files to examples: a path, which is a machine's own, and a description, which is the task's."""

from __future__ import annotations

from pathlib import Path

from fedprune.data.dataset import Dataset, Examples
from fedprune.data.description import Arrays, Data, Images, Recordings, Series, Table, Text
from fedprune.data.normalization import normalized
from fedprune.data.npz import count_examples, open_npz
from fedprune.data.room import IN_MEMORY, Room
from fedprune.errors import DataError
from fedprune.system.paths import path_text

_ROWS = (".csv", ".tsv", ".jsonl", ".ndjson")


def load_examples(path: Path, data: Data) -> Dataset:
    """`open_examples` of what fits into memory."""
    return open_examples(path, data, IN_MEMORY).in_memory


def open_examples(path: Path, data: Data, room: Room) -> Examples:
    """The examples as the task's model takes them: read, and normalised if the task says so.

    What takes more memory than there is `room` for stays on the disk, or goes to a working file there. What cannot be
    used where the rest is good is skipped, counted and logged. Raises `DataError` for all else.
    """
    return normalized(open_raw_examples(path, data, room), data)


def read_examples(path: Path, data: Data) -> Dataset:
    """`open_raw_examples` of what fits into memory."""
    return open_raw_examples(path, data, IN_MEMORY).in_memory


def open_raw_examples(path: Path, data: Data, room: Room) -> Examples:
    """The examples before normalisation, as an `.npz` of them holds them: what is missing is NaN.

    An `.npz`, or a function that returns arrays, may stand in for files of any form. Raises `DataError`.
    """
    if names_function(path):
        from fedprune.data.function import call_function

        return call_function(path)
    if path.suffix == ".npz":
        return open_npz(path, room, path_text(path))
    # A device takes only its own form's reader into its memory.
    match data:
        case Arrays():
            return open_npz(path, room, path_text(path))
        case Table():
            from fedprune.data.tables.table import read_table

            return read_table(path, data, room)
        case Series():
            from fedprune.data.tables.series import read_series

            return read_series(path, data, room)
        case Images():
            from fedprune.data.images import read_images

            return read_images(path, data, room)
        case Recordings():
            from fedprune.data.audio.recordings import read_recordings

            return read_recordings(path, data, room)
        case Text():
            from fedprune.data.text.text import read_text

            return read_text(path, data, room)


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
        from fedprune.data.function import call_function

        return len(call_function(path))
    if path.suffix.lower() not in _ROWS and not path.is_dir():
        return count_examples(path, path_text(path))
    from fedprune.data.folders import count_files
    from fedprune.data.tables.rows import count_lines, files_in, row_files

    if path.is_dir() and files_in(path, (".npy",)):
        return count_examples(path, path_text(path))
    if not path.is_dir():
        return count_lines(row_files(path, _ROWS))
    rows = count_lines(files_in(path, _ROWS))
    try:
        return max(rows, count_files(path))  # beside folders of pictures a table may lie that no task reads
    except DataError:
        if rows:
            return rows
        raise


def names_function(path: Path) -> bool:
    """True for ``DIRECTORY/mine.py:load`` and ``DIRECTORY/package.module:load``, where no file is called so."""
    place, colon, name = path.name.rpartition(":")
    return bool(place and colon) and name.isidentifier() and not path.exists()
