"""Accepted updates on the disk until their round is merged: those that were accepted together are one file, a segment,
which is one write to make durable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from aggregator.book import AcceptedUpdate
from fedprune.errors import StorageError
from fedprune.system.disk import Disk
from fedprune.wire.messages import Content
from fedprune.wire.transfer import content_of

_SUFFIX = ".updates"


@dataclass(frozen=True)
class Place:
    """The file that an update is in, and where it begins there."""

    file: str
    at: int


def write_segment(disk: Disk, round_: int, blobs: Mapping[str, bytes]) -> dict[str, Place]:
    """Make updates durable, by agent; where each is now. No agent has two of them in a round, so that a name is given
    again only to what replaces a segment of which the book never knew. Raises `StorageError`."""
    name = f"{_prefix(round_)}{next(iter(blobs))}{_SUFFIX}"
    places, at = dict[str, Place](), 0
    for agent, blob in blobs.items():
        places[agent] = Place(name, at)
        at += len(blob)
    disk.write(name, b"".join(blobs.values()))
    return places


def forget_segments(disk: Disk, round_: int) -> None:
    """Delete the updates of all rounds but one. Raises `StorageError`."""
    for name in disk.names():
        if name.endswith(_SUFFIX) and not name.startswith(_prefix(round_)):
            disk.delete(name)


def read_updates(disk: Disk, updates: Mapping[str, AcceptedUpdate]) -> Iterator[tuple[str, bytes]]:
    """The bytes of updates with their agents, file by file, so that no more than one segment is held.

    Raises `StorageError` for one that is missing or damaged.
    """
    name, segment = "", b""
    for agent, update in sorted(updates.items(), key=lambda item: (item[1].file, item[1].place)):
        if update.file != name:
            name, segment = update.file, disk.read(update.file) or b""
        blob = segment[update.place : update.place + update.size]
        if not blob or content_of(blob) != Content(digest=update.digest, size=update.size):
            raise StorageError(
                f"the accepted update of {agent} in {name} is missing or damaged; restore it, or start a new run"
            )
        yield agent, blob


def _prefix(round_: int) -> str:
    return f"{round_:06d}-"
