"""The history of benchmarks on a machine: a file with a report in each line, the oldest first."""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.latency.results import Report
from fedprune.errors import StorageError
from fedprune.system.disk import Directory

MOST_REPORTS = 1000
"""Reports that a history keeps: of more, the oldest are dropped."""
_LONGEST = 2**28
"""Bytes of a file that is read as a report or a history."""


def read_report(path: Path) -> Report:
    """A report that `--json` wrote. Raises `StorageError` if it is none."""
    return _decode(_read(path), path)


def read_history(path: Path) -> list[Report]:
    """The newest reports, in the file's order. Raises `StorageError` if it is no history."""
    return [_decode(line, path) for line in _read(path).splitlines()[-MOST_REPORTS:]]


def append_to_history(path: Path, report: Report) -> None:
    """Add a report to the end, which is a new file where there is none. Raises `StorageError`."""
    lines = _read(path).splitlines() if path.exists() else []
    if lines:
        _decode(lines[-1], path)
    kept = [*lines, msgspec.json.encode(report)][-MOST_REPORTS:]
    Directory(path.absolute().parent).write(path.name, b"".join(line + b"\n" for line in kept))


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LONGEST:
            raise StorageError(f"{path} has more than {_LONGEST} bytes: it holds no benchmarks")
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; give a file that `fedprune benchmark` wrote") from error


def _decode(content: bytes, path: Path) -> Report:
    try:
        return msgspec.json.decode(content, type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} is not what `fedprune benchmark` of this version wrote: {error}") from error
