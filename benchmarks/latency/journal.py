"""The journal of a benchmark that takes long: a line of JSON for all that was measured, as soon as it was.

The first line says what is measured. When a benchmark was ended before its time, another one goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from benchmarks.latency.conditions import Observation
from benchmarks.latency.shapes import Shape
from benchmarks.latency.this_machine import Machine
from benchmarks.latency.worker import Block
from fedprune.errors import StorageError

_LONGEST = 2**30
"""Bytes of a journal that is read: a million runs of some ten models."""


class Plan(msgspec.Struct, frozen=True, tag=True):
    """What is measured: `models` and their digests, each with each number of threads."""

    machine: Machine
    models: tuple[str, ...]
    sha256: tuple[str | None, ...]
    num_threads: tuple[int, ...]
    num_runs: int
    warmup_runs: int
    input_layer_shape: tuple[Shape, ...]

    @property
    def rows(self) -> int:
        return len(self.models) * len(self.num_threads)


class Timed(msgspec.Struct, frozen=True, tag=True):
    """A row's block of this number, from 0; the last one of a number counts."""

    row: int
    number: int
    block: Block


class Broken(msgspec.Struct, frozen=True, tag=True):
    """A row's model failed, and is not tried again."""

    row: int
    error: str


class Observed(msgspec.Struct, frozen=True, tag=True):
    """The machine between two turns."""

    observation: Observation


Entry = Timed | Broken | Observed
_Line = Plan | Entry


class Journal:
    """A file to which entries are appended. A line that a kill cut off is dropped when the file is opened again."""

    def __init__(self, path: Path, plan: Plan, *, resume: bool) -> None:
        """Begin a file, or go on with it: `entries` are then those that it holds.

        Raises:
            StorageError: the file cannot be written, is there although nothing is to be resumed, or is of another plan.
        """
        self._path = path
        self.entries: tuple[Entry, ...] = ()
        try:
            exists = path.exists() and path.stat().st_size > 0
            if exists and not resume:
                raise StorageError(f"{path} holds a benchmark already: go on with --resume, or name another file")
            if exists:
                self.entries = self._take_up(plan)
            self._file: BinaryIO = path.open("ab")
            if not exists:
                self._write(plan)
        except OSError as error:
            raise self._refused(error) from error

    def append(self, entry: Entry) -> None:
        """Raises `StorageError`."""
        try:
            self._write(entry)
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        self._file.close()

    def _take_up(self, plan: Plan) -> tuple[Entry, ...]:
        if self._path.stat().st_size > _LONGEST:
            raise StorageError(f"{self._path} has more than {_LONGEST} bytes: it is no journal of a benchmark")
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        entries = self._decode(whole)
        if not entries or not isinstance(entries[0], Plan):
            raise StorageError(f"{self._path} is no journal of a benchmark: name another file")
        if entries[0] != plan:
            raise StorageError(f"{self._path} is of {_difference(entries[0], plan)}: name another file")
        if len(whole) < len(content):
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        found = tuple(entry for entry in entries[1:] if not isinstance(entry, Plan))
        if any(not 0 <= entry.row < plan.rows for entry in found if not isinstance(entry, Observed)):
            raise StorageError(f"{self._path} tells of models that it does not name: name another file")
        return found

    def _decode(self, content: bytes) -> Sequence[_Line]:
        try:
            return [msgspec.json.decode(line, type=_Line) for line in content.splitlines()]
        except msgspec.DecodeError as error:
            raise StorageError(f"{self._path} is no journal of a benchmark ({error}): name another file") from error

    def _write(self, line: _Line) -> None:
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()

    def _refused(self, error: OSError) -> StorageError:
        return StorageError(f"{self._path}: {error.strerror}; name a file that can be written with --journal")


def _difference(theirs: Plan, ours: Plan) -> str:
    differing = [name for name in Plan.__struct_fields__ if getattr(theirs, name) != getattr(ours, name)]
    return f"another benchmark ({', '.join(differing)} differ{'s' if len(differing) == 1 else ''})"
