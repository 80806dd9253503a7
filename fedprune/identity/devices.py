"""The devices of a gateway, in SQLite: who was invited, who has which certificate, and whose are revoked.

The commands of a person and the enrolment endpoint use it at once, each in transactions of its own. Of a secret its
SHA-256 alone is kept.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fedprune.errors import ConfigurationError, FedpruneError, StorageError
from fedprune.wire.authentication import KEY_BYTES

FILE = "devices.sqlite"

MOST_DEVICES = 100_000
"""Names that a gateway has invited."""

MOST_CERTIFICATES = 1_000_000
"""That a gateway has issued, revoked ones too."""

BUSY_S = 10.0
"""How long one transaction waits for another."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS invitations (
    name TEXT PRIMARY KEY, secret BLOB NOT NULL UNIQUE, expires INTEGER NOT NULL,
    used INTEGER, address TEXT, requested BLOB, serial TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS certificates (
    serial TEXT PRIMARY KEY, name TEXT NOT NULL, issued INTEGER NOT NULL, revoked INTEGER,
    certificate BLOB NOT NULL, key BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS certificates_of_name ON certificates (name);
CREATE TABLE IF NOT EXISTS renewals (serial TEXT PRIMARY KEY, successor TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS starts (only INTEGER PRIMARY KEY CHECK (only = 0), number INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS lists (only INTEGER PRIMARY KEY CHECK (only = 0), number INTEGER NOT NULL) STRICT;
"""


class TokenRefused(FedpruneError):
    """A secret that lets nobody in: unknown, late, or used. The message says which; it holds no secret."""


class RenewalRefused(FedpruneError):
    """A certificate that is not renewed. The message says why."""


@dataclass(frozen=True)
class Revoked:
    """Whom the broker must not let in: serial numbers, and names without a valid certificate. Lists are numbered."""

    serials: frozenset[int]
    names: tuple[str, ...]
    number: int


@dataclass(frozen=True)
class Member:
    """A device that has joined. `key` is what it shares with the aggregator (`fedprune.wire.authentication`)."""

    name: str
    certificate: bytes
    key: bytes = field(repr=False)


Issue = Callable[[str], tuple[bytes, int]]
"""A name's certificate, and its serial number."""

IssueAgain = Callable[[bytes], tuple[bytes, int]]
"""The certificate that follows one, and its serial number. May raise `RenewalRefused`."""


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

    def redeem(self, secret: bytes, requested: bytes, address: str, now: int, issue: Issue) -> Member:
        """Make whoever was invited with `secret` a member. `requested` is the digest of the key to certify.

        `issue` makes the certificate. A secret serves one key: asked again with it, as where an answer was lost, it
        answers the same again. Raises `TokenRefused`.
        """
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT name, expires, used, address, requested, serial FROM invitations WHERE secret = ?",
                (_hashed(secret),),
            ).fetchone()
            if row is None:
                raise TokenRefused(
                    "this token is unknown: it was withdrawn, or is another gateway's; ask for a new one"
                )
            name, expires, used, user, known, serial = row
            if now >= expires:
                raise TokenRefused(f"the token of {name} ended {now - expires} s ago; ask for a new one")
            if used is not None and known != requested:
                raise TokenRefused(
                    f"the token of {name} was used already, {now - used} s ago from {user}; if that was not this "
                    f"device, say so at the gateway: fedprune revoke {name}"
                )
            if used is None:
                certificate, number = issue(name)
                serial = str(number)
                connection.execute(
                    "UPDATE invitations SET used = ?, address = ?, requested = ?, serial = ? WHERE name = ?",
                    (now, address, requested, serial, name),
                )
                connection.execute(
                    "INSERT INTO certificates VALUES (?, ?, ?, NULL, ?, ?)",
                    (serial, name, now, certificate, secrets.token_bytes(KEY_BYTES)),
                )
            return Member(
                name,
                *connection.execute("SELECT certificate, key FROM certificates WHERE serial = ?", (serial,)).fetchone(),
            )

    def renew(self, serial: int, now: int, issue: IssueAgain) -> bytes:
        """The certificate that follows the one with this serial number. Asked again it is the same one.

        Raises `RenewalRefused` for a certificate that is not of a device of this gateway, or is revoked, and if there
        are too many.
        """
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT name, revoked, certificate, key FROM certificates WHERE serial = ?", (str(serial),)
            ).fetchone()
            if row is None:
                raise RenewalRefused("this certificate is of no device that has joined this gateway")
            name, revoked, certificate, key = row
            if revoked is not None:
                raise RenewalRefused(f"{name} is revoked; the gateway's owner can enrol it anew")
            known = connection.execute(
                "SELECT certificate FROM certificates JOIN renewals ON successor = certificates.serial "
                "WHERE renewals.serial = ?",
                (str(serial),),
            ).fetchone()
            if known is not None:
                return bytes(known[0])
            (issued,) = connection.execute("SELECT count(*) FROM certificates").fetchone()
            if issued >= MOST_CERTIFICATES:
                raise RenewalRefused(f"the gateway has issued {issued} certificates, which are all that it may")
            successor, number = issue(certificate)
            connection.execute(
                "INSERT INTO certificates VALUES (?, ?, ?, NULL, ?, ?)", (str(number), name, now, successor, key)
            )
            connection.execute("INSERT INTO renewals VALUES (?, ?)", (str(serial), str(number)))
            return successor

    def revoke(self, name: str, witness: int, now: int, write: Callable[[Revoked], None]) -> bool:
        """End a name's invitation and certificates, and have `write` make that known; False if the name is unknown.

        `witness` is the serial number of a certificate of that name which is void from the beginning.
        """
        with self._transaction() as connection:
            invited = connection.execute("DELETE FROM invitations WHERE name = ?", (name,)).rowcount
            certified = connection.execute("SELECT 1 FROM certificates WHERE name = ?", (name,)).fetchone()
            if not invited and certified is None:
                return False
            connection.execute(
                "INSERT INTO certificates VALUES (?, ?, ?, ?, ?, ?)", (str(witness), name, now, now, b"", b"")
            )
            connection.execute("UPDATE certificates SET revoked = ? WHERE name = ? AND revoked IS NULL", (now, name))
            write(_revoked(connection))
            return True

    def count_start(self) -> int:
        """The number of this start of an aggregator, of whatever run: from 1, and more each time."""
        with self._transaction() as connection:
            (number,) = connection.execute(
                "INSERT INTO starts VALUES (0, 1) ON CONFLICT DO UPDATE SET number = number + 1 RETURNING number"
            ).fetchone()
        return int(number)

    def publish(self, write: Callable[[Revoked], None]) -> None:
        """Have `write` make known who is revoked."""
        with self._transaction() as connection:
            write(_revoked(connection))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            if not self._path.exists():
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
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
