"""Files in folders by class: each folder has a label's name, and the files in it are examples of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fedprune.data.labels import ClassNames
from fedprune.data.skipped import Fault, Skipped, Unusable
from fedprune.errors import DataError
from fedprune.system.paths import path_text

MAX_FILES = 2**20
"""Files in all folders of one source."""

MAX_FILE_BYTES = 2**26
"""Of one picture or recording: nothing larger is opened."""


def count_files(path: Path) -> int:
    """Count the files in all folders of a directory, whatever their labels. Raises `DataError`."""
    return sum(len(_files(folder)) for folder in _folders(path))


def files_by_folder(path: Path) -> dict[str, list[Path]]:
    """The files of each folder of a directory, by the folder's name, sorted. Raises `DataError`, also for too many."""
    found: dict[str, list[Path]] = {}
    for folder in _folders(path):
        found[folder.name] = _files(folder)
        if sum(map(len, found.values())) > MAX_FILES:
            raise DataError(f"{path_text(path)}: more than {MAX_FILES} files; name fewer")
    return found


def labelled_files(path: Path, labels: Sequence[str], skipped: Skipped) -> list[tuple[Path, int]]:
    """Each file with its class number, in the order of folders' and files' names.

    Hidden files and folders, and folders in folders, are left out; a folder with a label that the task does not know
    is skipped. Raises `DataError` where `path` is no directory, or holds no folder or too many files.
    """
    classes = ClassNames(labels)
    found: list[tuple[Path, int]] = []
    for folder in _folders(path):
        try:
            label = classes.number(folder.name, Fault.FOLDER)
        except Unusable as unusable:
            skipped.add(path_text(folder.name), unusable)
            continue
        found += [(file, label) for file in _files(folder)]
        if len(found) > MAX_FILES:
            raise DataError(f"{path_text(path)}: more than {MAX_FILES} files; give this device fewer")
    return found


def check_size(file: Path) -> None:
    """Raise `Unusable` for a file that is too large to be opened, or cannot be asked."""
    try:
        size = file.stat().st_size
    except OSError as error:
        raise Unusable(Fault.DAMAGED, f"{error.strerror}; make the file readable") from error
    if size > MAX_FILE_BYTES:
        raise Unusable(Fault.TOO_LARGE, f"{size} bytes, at most {MAX_FILE_BYTES} are read; make it smaller")


def place_of(file: Path) -> str:
    """The name of a file as messages have it: with its folder."""
    return path_text(Path(file.parent.name, file.name))


def _folders(path: Path) -> list[Path]:
    try:
        folders = sorted(Path(entry) for entry in os.scandir(path) if _is_shown(entry) and entry.is_dir())
    except OSError as error:
        raise DataError(
            f"{path_text(path)}: {error.strerror}; name a directory with a folder for each class"
        ) from error
    if not folders:
        raise DataError(f"{path_text(path)}: it holds no folder; put the files into a folder for each class")
    return folders


def _files(folder: Path) -> list[Path]:
    """Regular files, so that a pipe is never waited for."""
    try:
        return sorted(Path(entry) for entry in os.scandir(folder) if _is_shown(entry) and entry.is_file())
    except OSError as error:
        raise DataError(f"{path_text(folder)}: {error.strerror}; make the folder readable") from error


def _is_shown(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".")
