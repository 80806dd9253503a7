"""Standard output and standard error that may be closed, full, or without a reader.

What a command says beside its work (logs, progress) is dropped where it cannot be written, and the work goes on. Where
a command's output is its work, losing it is an error as others are.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import click

from fedprune.errors import StorageError

_INPUT, _OUTPUT, _ERRORS = 0, 1, 2


class OutputLost(StorageError):
    """Standard output takes nothing."""


def install_streams() -> None:
    """Take over the process's standard streams, if nobody else has.

    A descriptor that whoever started us has closed is opened on /dev/null: else the next file, or a library's database,
    would get its number and what is printed. Standard output is opened so that it refuses, as a closed one does.
    """
    for descriptor, mode in ((_INPUT, os.O_RDONLY), (_OUTPUT, os.O_RDONLY), (_ERRORS, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest number that is free, which is this one
            os.set_inheritable(descriptor, True)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Demanding(_OUTPUT, "w", closefd=False), sys.__stdout__)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Dropping(_ERRORS, "w", closefd=False), sys.__stderr__)


def droppable(descriptor: int) -> io.TextIOWrapper:
    """Text to `descriptor`, which it will close; what cannot be written is dropped."""
    return _text(_Dropping(descriptor, "w"), None)


def say(line: str) -> None:
    """Print a line that no work depends on: it is dropped where standard output takes nothing."""
    try:
        click.echo(line)
    except OutputLost:
        return


def tell_watcher(line: str) -> None:
    """Say on standard error what goes on, where a person watches: on a terminal. For what takes seconds in silence."""
    if sys.stderr.isatty():
        click.echo(line, err=True)


class _Unbuffered(io.FileIO):
    """Keeps nothing back, so that no later flush fails for it."""

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        while left:
            left = left[super().write(left) or 0 :]
        return size


class _Demanding(_Unbuffered):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OutputLost(
                f"standard output takes nothing ({error.strerror}); give it a reader, or a file on a disk with space"
            ) from error


class _Dropping(_Unbuffered):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _text(raw: io.FileIO, former: Any) -> io.TextIOWrapper:
    """Text in the encoding of `former`; what the encoding does not have is escaped."""
    encoding = "utf-8" if former is None else former.encoding
    return io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace", write_through=True)
