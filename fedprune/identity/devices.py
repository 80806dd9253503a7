"""The devices of a gateway, in SQLite: who was invited, who has which certificate, and whose are revoked.

The commands of a person and the enrolment endpoint use it at once, each in transactions of its own. Of a secret its
SHA-256 alone is kept.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedprune.errors import ConfigurationError, FedpruneError, StorageError

FILE = "devices.sqlite"

MOST_DEVICES = 100_000
"""Names that a gateway has invited."""

MOST_CERTIFICATES = 1_000_000
"""That a gateway has issued, revoked ones too."""

_BUSY_S = 10.0
"""How long one transaction waits for another."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS invitations (
    name TEXT PRIMARY KEY, secret BLOB NOT NULL UNIQUE, expires INTEGER NOT NULL,
    key BLOB, certificate BLOB, used INTEGER, address TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS certificates (
    serial TEXT PRIMARY KEY, name TEXT NOT NULL, issued INTEGER NOT NULL, revoked INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS certificates_of_name ON certificates (name);
CREATE TABLE IF NOT EXISTS lists (only INTEGER PRIMARY KEY CHECK (only = 0), number INTEGER NOT NULL) STRICT;
"""


class TokenRefused(FedpruneError):
    """A secret that lets nobody in: unknown, late, or used. The message says which; it holds no secret."""


@dataclass(frozen=True)
class Revoked:
    """Whom the broker must not let in: serial numbers, and names without a valid certificate. Lists are numbered."""

    serials: frozenset[int]
    names: tuple[str, ...]
    number: int


@dataclass(frozen=True)
class Redeemed:
    """A device that has joined. `was_revoked`: the broker has to be told that its name counts again."""

    name: str
    certificate: bytes
    was_revoked: bool


Issue = Callable[[str], tuple[bytes, int]]
"""A name's certificate, and its serial number."""


class Devices:
    """A gateway's devices. Times are seconds since 1970."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE

    def invite(self, name: str, secret: bytes, expires: int) -> None:
        """Let whoever shows `secret` be `name`, until `expires`. An earlier invitation of that name ends.

        Raises `ConfigurationError` for the name of a device that has joined, and if there are too many.
        """
        with self._transaction() as connection:
            (invited,) = connection.execute("SELECT count(*) FROM invitations").fetchone()
            (issued,) = connection.execute("SELECT count(*) FROM certificates").fetchone()
            if invited >= MOST_DEVICES or issued >= MOST_CERTIFICATES:
                raise ConfigurationError(
                    f"{self._path}: {invited} devices, {issued} certificates; make another gateway"
                )
            if _has_joined(connection, name):
                raise ConfigurationError(
                    f"{name} has joined already; for another device choose another name, or revoke it first: "
                    f"fedprune revoke {name}"
                )
            connection.execute(
                "INSERT OR REPLACE INTO invitations (name, secret, expires) VALUES (?, ?, ?)",
                (name, _hashed(secret), expires),
            )

    def redeem(self, secret: bytes, key: bytes, address: str, now: int, issue: Issue) -> Redeemed:
        """Have `issue` make the certificate of the name that was invited with `secret`, for the key of this digest.

        A secret serves one key: asked again with it, as where an answer was lost, it answers the same again.
        Raises `TokenRefused`.
        """
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT name, expires, key, certificate, used, address FROM invitations WHERE secret = ?",
                (_hashed(secret),),
            ).fetchone()
            if row is None:
                raise TokenRefused(
                    "this token is unknown: it was withdrawn, or is another gateway's; ask for a new one"
                )
            name, expires, known_key, certificate, used, user = row
            if now >= expires:
                raise TokenRefused(f"the token of {name} ended {now - expires} s ago; ask for a new one")
            if used is not None and known_key != key:
                raise TokenRefused(
                    f"the token of {name} was used already, {now - used} s ago from {user}; if that was not this "
                    f"device, say so at the gateway: fedprune revoke {name}"
                )
            if used is not None:
                return Redeemed(name, certificate, was_revoked=False)
            was_revoked = name in _revoked_names(connection)
            certificate, serial = issue(name)
            connection.execute(
                "UPDATE invitations SET key = ?, certificate = ?, used = ?, address = ? WHERE name = ?",
                (key, certificate, now, address, name),
            )
            connection.execute(
                "INSERT INTO certificates (serial, name, issued) VALUES (?, ?, ?)", (str(serial), name, now)
            )
            return Redeemed(name, certificate, was_revoked)

    def revoke(self, name: str, witness: int, now: int, write: Callable[[Revoked], None]) -> bool:
        """End a name's invitation and certificates, and have `write` make that known; False if the name is unknown.

        `witness` is the serial number of a certificate of that name which is void from the beginning.
        """
        with self._transaction() as connection:
            invited = connection.execute("DELETE FROM invitations WHERE name = ?", (name,)).rowcount
            certified = connection.execute("SELECT 1 FROM certificates WHERE name = ?", (name,)).fetchone()
            if not invited and certified is None:
                return False
            connection.execute("INSERT INTO certificates VALUES (?, ?, ?, ?)", (str(witness), name, now, now))
            connection.execute("UPDATE certificates SET revoked = ? WHERE name = ? AND revoked IS NULL", (now, name))
            write(_revoked(connection))
            return True

    def publish(self, write: Callable[[Revoked], None]) -> None:
        """Have `write` make known who is revoked."""
        with self._transaction() as connection:
            write(_revoked(connection))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            if not self._path.exists():
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None)
            try:
                connection.execute("BEGIN IMMEDIATE")
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    connection.execute(statement)
                yield connection
                connection.execute("COMMIT")
            finally:
                connection.close()  # what was not committed is rolled back
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"{self._path}: {error}; free space, or restore the file from a backup") from error


def _revoked(connection: sqlite3.Connection) -> Revoked:
    rows = connection.execute("SELECT serial FROM certificates WHERE revoked IS NOT NULL").fetchall()
    (number,) = connection.execute(
        "INSERT INTO lists VALUES (0, 1) ON CONFLICT DO UPDATE SET number = number + 1 RETURNING number"
    ).fetchone()
    return Revoked(frozenset(int(serial) for (serial,) in rows), _revoked_names(connection), number)


def _revoked_names(connection: sqlite3.Connection) -> tuple[str, ...]:
    rows = connection.execute(
        "SELECT name FROM certificates GROUP BY name HAVING count(*) = count(revoked) ORDER BY name"
    ).fetchall()
    return tuple(name for (name,) in rows)


def _has_joined(connection: sqlite3.Connection, name: str) -> bool:
    found = connection.execute("SELECT 1 FROM certificates WHERE name = ? AND revoked IS NULL", (name,)).fetchone()
    return found is not None


def _hashed(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
