"""The parent's terms on the disk, in a run's directory: who ends the run later signs by them that it is over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from fedprune.errors import StorageError, StorageOfOtherVersion
from fedprune.system.disk import Directory
from fedprune.wire.messages import Content, Terms

_NAME = "terms.json"

_FORMAT = 1
"""Of the file; one of another format is another version's."""

_UNNUMBERED = 0
"""The format of what names none, as the first did: a list."""


class _Format(msgspec.Struct, frozen=True):
    """All that is read before it is known that this version can read the rest."""

    format: int = _UNNUMBERED


class _StoredTerms(msgspec.Struct, frozen=True):
    """What the agents are told of them. Who signs the parent's manifests is none of it."""

    format: int
    task: bytes
    task_bytes: int
    seed: int
    clock_steps: int
    codec: str
    model_codec: str
    hold_out: float


def store_terms(directory: Directory, terms: Terms) -> None:
    """Make them durable. Raises `StorageError`."""
    stored = _StoredTerms(
        _FORMAT,
        terms.task.digest,
        terms.task.size,
        terms.seed,
        terms.clock_steps,
        terms.codec,
        terms.model_codec,
        terms.hold_out,
    )
    directory.write(_NAME, msgspec.json.encode(stored))


def has_terms(path: Path) -> bool:
    """The run in this directory was told to agents, or is about to be."""
    return (path / _NAME).is_file()


def read_terms(directory: Directory) -> Terms:
    """Raises `StorageError` for a file that is damaged, `StorageOfOtherVersion` for one of another format."""
    blob, where = directory.read(_NAME) or b"", directory.path
    try:
        told = msgspec.json.decode(blob, type=_Format | list[Any])
        found = told.format if isinstance(told, _Format) else _UNNUMBERED
        if found != _FORMAT:
            raise StorageOfOtherVersion(
                f"{where / _NAME}: format {found}, this fedprune reads {_FORMAT}; use the version that wrote it, or "
                f"delete {where}, of which no round follows"
            )
        stored = msgspec.json.decode(blob, type=_StoredTerms)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"{where / _NAME}: damaged ({error}); delete {where}, of which no round follows") from error
    return Terms(
        task=Content(digest=stored.task, size=stored.task_bytes),
        seed=stored.seed,
        clock_steps=stored.clock_steps,
        codec=stored.codec,
        model_codec=stored.model_codec,
        hold_out=stored.hold_out,
    )
