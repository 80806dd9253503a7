"""Files that can be opened and read: the first that cannot is named. What is in them is the task's to say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fedprune.data.loading import names_function
from fedprune.system.disk import why_unreadable
from fedprune.system.paths import path_text

MOST_FILES = 2**20
"""Files that are opened."""

_HEAD = 4096


def unreadable_file(path: Path) -> str:
    """Say which file of `path`, a file or a directory of them, cannot be read and why; empty if all can."""
    if names_function(path):
        return ""
    for place, file in zip(range(MOST_FILES), _files(path), strict=False):
        if why := _why_unreadable(file):
            others = f" ({place} files before it can be read)" if place else ""
            return f"{path_text(file)}: {why}{others}; make it readable, replace it or remove it"
    return ""


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for directory, folders, names in os.walk(path, onerror=_raise):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        yield from (Path(directory, name) for name in sorted(names) if not name.startswith("."))


def _raise(error: OSError) -> None:
    raise error


def _why_unreadable(file: Path) -> str:
    if why := why_unreadable(file):
        return why
    try:
        with file.open("rb") as opened:
            opened.read(_HEAD)
    except OSError as error:  # a damaged card reads some files and not others
        return error.strerror or str(error)
    return ""
