"""The storage of a run, in its state directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aggregator.book import Book
from fedprune.errors import StorageError
from fedprune.system.disk import Directory, Disk
from fedprune.task.run_directory import BOOK, CHECKPOINTS, UPDATES


@dataclass(frozen=True)
class RunStore:
    """The storage of a run: the book, and disks for checkpoints and for the updates of the open round."""

    book: Book
    checkpoints: Disk
    updates: Disk

    @classmethod
    def open(cls, state: Path) -> RunStore:
        """The store in a run's directory, which the caller owns.

        Raises `StorageError` if it cannot be read, or holds checkpoints of which the book knows nothing: a book that
        is gone is no new run, and what it said was accepted must not be overwritten.
        """
        store = cls(Book.open(state / BOOK), Directory(state / CHECKPOINTS), Directory(state / UPDATES))
        if store.book.is_new and (store.checkpoints.names() or store.updates.names()):
            store.book.close()
            raise StorageError(
                f"{state} holds a run's checkpoints, but {BOOK} knows of none: restore it and the -wal file beside it, "
                "or name an empty state directory; nothing was changed"
            )
        return store

    def forget_updates(self) -> None:
        """Delete the updates of the open round."""
        for name in self.updates.names():
            self.updates.delete(name)

    def close(self) -> None:
        self.book.close()
