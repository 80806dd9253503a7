"""The federations of a gateway, in a directory: those that wait, the one that is served, those that have ended.

Each has a directory of its own, named by its number, with all that it takes; it becomes visible whole. A person's
commands and the gateway's process use it at once: each file is written by one side alone, and none is changed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from aggregator.settings import FederationSettings
from fedprune.config import from_table
from fedprune.errors import ConfigurationError, StorageError
from fedprune.system.disk import Directory, storage_error
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
        numbers = [*self._numbers(), 0]
        if len(numbers) > MOST_FEDERATIONS:
            raise ConfigurationError(
                f"{self.path}: {MOST_FEDERATIONS} federations; remove some that have ended: "
                "fedprune gateway queue remove NUMBER"
            )
        try:
            return self._put(max(numbers) + 1, _Entry(_FORMAT, bundle.task.name, settings), bundle.blob, held_out)
        except OSError as error:
            raise storage_error(self.path, error) from error

    def _put(self, number: int, entry: _Entry, task: bytes, held_out: Path | None) -> Federation:
        """Make all of it under another name first; a number that somebody else takes meanwhile is not ours."""
        home = Directory(self.path)
        draft = Directory(Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self.path)))
        draft.write(_TASK, task)
        if held_out is not None:
            target = draft.path / str(entry.settings.held_out)
            (shutil.copytree if held_out.is_dir() else shutil.copyfile)(held_out, target)
        draft.write(_ENTRY, msgspec.json.encode(entry))
        while (directory := self._directory(number)).exists():
            number += 1
        draft.path.rename(directory)  # fails if another add was there first
        home.sync()
        return Federation(number, entry.task, directory, entry.settings)

    def all(self) -> list[Federation]:
        """Every federation, by number. Raises `StorageError` if one cannot be read."""
        return [self._read(number) for number in sorted(self._numbers())]

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
        away = self.path / f"{_DRAFT}{number}"  # so that half of it is never seen
        try:
            federation.directory.rename(away)
            shutil.rmtree(away)
        except OSError as error:
            raise storage_error(federation.directory, error) from error

    def discard_drafts(self) -> None:
        """Delete what an interrupted command left. Done by who serves, as it starts."""
        for draft in self.path.glob(f"{_DRAFT}*"):
            shutil.rmtree(draft, ignore_errors=True)

    def _directory(self, number: int) -> Path:
        return self.path / f"{number:04d}"

    def _numbers(self) -> list[int]:
        if not self.path.exists():
            return []
        return [int(path.name) for path in self.path.iterdir() if path.name.isascii() and path.name.isdigit()]

    def _read(self, number: int) -> Federation:
        directory = self._directory(number)
        try:
            entry = msgspec.json.decode(Directory(directory).read(_ENTRY) or b"", type=_Entry)
        except (msgspec.DecodeError, ValueError) as error:
            raise _damaged(directory / _ENTRY, error) from error
        if entry.format != _FORMAT:
            raise StorageError(
                f"{directory}: format {entry.format}, this fedprune reads {_FORMAT}; use the version that wrote it"
            )
        return Federation(number, entry.task, directory, entry.settings)


def _damaged(path: Path, error: Exception) -> StorageError:
    return StorageError(f"{path}: cannot be read ({error}); restore it from a backup, or delete its directory")
