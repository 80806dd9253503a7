"""The devices to which the aggregator does not listen any more: the names in a file that `fedprune revoke` writes."""

from __future__ import annotations

from pathlib import Path

from fedprune.errors import StorageError


class RevokedNames:
    """The names in `path`, one a line, as it is now: the file is read again whenever another is in its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._names: frozenset[str] = frozenset()
        self._refresh()

    def __contains__(self, name: object) -> bool:
        """Raises `StorageError` if the file is gone: who was revoked must not come back with that."""
        self._refresh()
        return name in self._names

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen != self._seen:
                self._names, self._seen = frozenset(self._path.read_text("utf-8").splitlines()), seen
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise StorageError(
                f"{self._path}: {reason}; `revoked` in federation.toml names the file of that name in the directory of "
                "`fedprune gateway init`"
            ) from error
