"""The authentication keys of a gateway's devices, as the aggregator needs them: for each message, and up to date."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from fedprune.errors import ConfigurationError, StorageError
from fedprune.identity.devices import BUSY_S, FILE


class DeviceKeys:
    """The key of each device that has joined and is not revoked. One thread may use it.

    The file is read again whenever somebody has changed it, which takes 7 us to ask.
    Raises `ConfigurationError` if the directory is no gateway's, `StorageError` if its file cannot be read any more.
    """

    def __init__(self, gateway: Path) -> None:
        self._path = gateway / FILE
        if not self._path.is_file():
            raise ConfigurationError(
                f"{gateway}: no gateway's directory; name in `gateway` the one that `fedprune gateway init` made"
            )
        self._version: int | None = None
        self._keys: dict[str, bytes] = {}
        self._names: frozenset[str] = frozenset()
        try:
            self._connection = sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=rw", timeout=BUSY_S, uri=True)
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def get(self, name: str) -> bytes | None:
        """None for who is unknown, has not joined yet, or is revoked."""
        return self._present().get(name)

    def names(self) -> frozenset[str]:
        """Those who have a key: the same object until somebody has changed the file."""
        self._present()
        return self._names

    def _present(self) -> dict[str, bytes]:
        try:
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            if version != self._version:
                rows = self._connection.execute("SELECT name, key FROM certificates WHERE revoked IS NULL")
                self._keys, self._version = dict(rows.fetchall()), version
                self._names = frozenset(self._keys)
        except sqlite3.Error as error:
            raise self._unreadable(error) from error
        return self._keys

    def close(self) -> None:
        self._connection.close()

    def _unreadable(self, error: sqlite3.Error) -> StorageError:
        return StorageError(f"{self._path}: {error}; restore it from a backup")
