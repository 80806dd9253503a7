"""The federations of a gateway, in a directory: those that wait, the one that is served, those that have ended.

Each has a directory of its own, named by its number, with all that it takes; it becomes visible whole. A person's
commands and the gateway's process use it at once: each file is written by one side alone, and none is changed. Who
adds or removes a federation is alone in that.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from aggregator.servable import check_held_out, check_servable
from aggregator.settings import FederationSettings
from fedprune.config import from_table
from fedprune.data.room import Room
from fedprune.errors import ConfigurationError, StorageError, StorageOfOtherVersion
from fedprune.system.disk import Directory, copy_durably, storage_error
from fedprune.task.bundle import Bundle

QUEUE = "queue"
"""The directory's name in the gateway's."""

MOST_FEDERATIONS = 1000
"""Those that have ended count until they are removed."""

_FORMAT = 1
_ENTRY, _OUTCOME, _STOP = "entry.json", "outcome.json", "stop"
_PAUSED = "paused"
_DRAFT = "draft-"
_TASK, _HELD_OUT, _RUN = "task.fedtask", "held-out", "run"

_GATEWAYS = ("name", "task", "state", "broker", "gateway")
"""Keys of a federation.toml that are the gateway's to say."""

End = Literal["done", "failed", "stopped"]


class _Entry(msgspec.Struct, frozen=True):
    format: int
    task: str
    settings: FederationSettings


class Outcome(msgspec.Struct, frozen=True):
    """How a federation ended, and why if it failed."""

    end: End
    why: str = ""


@dataclass(frozen=True)
class Unreadable:
    """A federation whose files are damaged, or of another version: it is passed over."""

    number: int
    directory: Path
    why: str


@dataclass(frozen=True)
class Federation:
    """One of the queue. `settings` have paths in its directory, and are silent of broker and gateway."""

    number: int
    task: str
    directory: Path
    settings: FederationSettings

    @property
    def outcome(self) -> Outcome | None:
        """None as long as it has not ended."""
        blob = Directory(self.directory).read(_OUTCOME)
        if blob is None:
            return None
        try:
            return msgspec.json.decode(blob, type=Outcome)
        except msgspec.DecodeError as error:
            raise _damaged(self.directory / _OUTCOME, error) from error

    @property
    def is_to_stop(self) -> bool:
        return (self.directory / _STOP).exists()

    def ends(self, outcome: Outcome) -> None:
        """Said by who serves it."""
        Directory(self.directory).write(_OUTCOME, msgspec.json.encode(outcome))


class Federations:
    """The directory. Whoever calls owns its files, or is the gateway's user."""

    def __init__(self, gateway: Path) -> None:
        self.path = gateway / QUEUE

    def add(self, bundle: Bundle, table: Mapping[str, Any], base: Path) -> Federation:
        """Put a federation at the end that learns `bundle` as `table` says, which is a federation.toml's in `base`.

        What it needs is copied. Raises `FedpruneError`s for what could not be served.
        """
        said = {key: value for key, value in table.items() if key not in _GATEWAYS}
        held_out = None if said.get("held_out") is None else base / str(said["held_out"])
        if held_out is not None:
            said["held_out"] = f"{_HELD_OUT}{held_out.suffix}"
        settings = from_table(said | {"task": _TASK, "state": _RUN}, FederationSettings, "federation")
        check_servable(settings, bundle)
        if held_out is not None:
            check_held_out(settings, bundle, held_out, Room.of_device(Directory(self.path).path))
        with self._alone() as home:
            numbers = [*self._numbers(), 0]
            if len(numbers) > MOST_FEDERATIONS:
                raise ConfigurationError(
                    f"{self.path}: {MOST_FEDERATIONS} federations; remove some that have ended: "
                    "fedprune gateway queue remove NUMBER"
                )
            return self._put(home, max(numbers) + 1, _Entry(_FORMAT, bundle.task.name, settings), bundle.blob, held_out)

    def _put(self, home: Directory, number: int, entry: _Entry, task: bytes, held_out: Path | None) -> Federation:
        """Make all of it under another name first."""
        draft, directory = Directory(self.path / f"{_DRAFT}{number}"), self._directory(number)
        draft.write(_TASK, task)
        if held_out is not None:
            copy_durably(held_out, draft.path / str(entry.settings.held_out))
        draft.write(_ENTRY, msgspec.json.encode(entry))
        draft.path.rename(directory)
        home.sync()
        return Federation(number, entry.task, directory, entry.settings)

    def all(self) -> list[Federation]:
        """Every federation that can be read, by number."""
        return [found for found in self.entries() if isinstance(found, Federation)]

    def entries(self) -> list[Federation | Unreadable]:
        """Every federation, by number."""
        return [self._read_or_say(number) for number in sorted(self._numbers())]

    def get(self, number: int) -> Federation:
        """Raises `ConfigurationError` if there is none of this number."""
        if number not in self._numbers():
            raise ConfigurationError(f"no federation {number} here; see `fedprune gateway queue list`")
        return self._read(number)

    def following(self) -> Federation | None:
        """The one to be served now: the first that has not ended, unless the queue is paused."""
        if self.is_paused:
            return None
        return next((federation for federation in self.all() if federation.outcome is None), None)

    def to_stop(self) -> list[Federation]:
        """Those that a person has stopped, and that have not ended."""
        return [found for found in self.all() if found.is_to_stop and found.outcome is None]

    @property
    def is_paused(self) -> bool:
        return (self.path / _PAUSED).exists()

    def pause(self, is_paused: bool) -> None:
        """The one that is served rests too, and goes on where it was."""
        home = Directory(self.path)
        if is_paused:
            home.write(_PAUSED, b"")
        else:
            home.delete(_PAUSED)

    def stop(self, number: int) -> None:
        """Let one end where it is. Raises `ConfigurationError` for one that has ended."""
        federation = self.get(number)
        if federation.outcome is not None:
            raise ConfigurationError(f"federation {number} has ended already ({federation.outcome.end})")
        Directory(federation.directory).write(_STOP, b"")

    def remove(self, number: int) -> None:
        """Delete one that has ended, with its models. Raises `ConfigurationError` for one that has not."""
        federation = self.get(number)
        if federation.outcome is None:
            raise ConfigurationError(f"federation {number} has not ended: fedprune gateway queue stop {number}")
        with self._alone():
            away = self.path / f"{_DRAFT}{number}"  # so that half of it is never seen
            federation.directory.rename(away)
            shutil.rmtree(away)

    def discard_drafts(self) -> None:
        """Delete what an interrupted command left."""
        with self._alone():
            pass

    @contextmanager
    def _alone(self) -> Iterator[Directory]:
        """The directory, in which nobody else makes or deletes a federation meanwhile: so a draft that is found first
        is nobody's any more, and deleted. Maps `OSError`s within."""
        home = Directory(self.path)
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                for draft in self.path.glob(f"{_DRAFT}*"):
                    shutil.rmtree(draft)
                yield home
            finally:
                os.close(descriptor)
        except OSError as error:
            raise storage_error(self.path, error) from error

    def _directory(self, number: int) -> Path:
        return self.path / f"{number:04d}"

    def _numbers(self) -> list[int]:
        if not self.path.exists():
            return []
        return [int(path.name) for path in self.path.iterdir() if path.name.isascii() and path.name.isdigit()]

    def _read_or_say(self, number: int) -> Federation | Unreadable:
        try:
            found = self._read(number)
            _ = found.outcome
        except StorageError as error:
            return Unreadable(number, self._directory(number), str(error))
        return found

    def _read(self, number: int) -> Federation:
        directory = self._directory(number)
        try:
            entry = msgspec.json.decode(Directory(directory).read(_ENTRY) or b"", type=_Entry)
        except (msgspec.DecodeError, ValueError) as error:
            raise _damaged(directory / _ENTRY, error) from error
        if entry.format != _FORMAT:
            raise StorageOfOtherVersion(
                f"{directory}: format {entry.format}, this fedprune reads {_FORMAT}; use the version that wrote it"
            )
        return Federation(number, entry.task, directory, entry.settings)


def _damaged(path: Path, error: Exception) -> StorageError:
    return StorageError(f"{path}: cannot be read ({error}); restore it from a backup, or delete its directory")
