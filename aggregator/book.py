"""The aggregator's book, in SQLite: what was accepted, who was assigned, which rounds are finished.

A round is in one of three states: not begun (no row), open (a cohort), finished (a record). What the book says is
durable when the call returns; after a crash the aggregator goes on from here and from the last checkpoint.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from fedprune.errors import StorageError
from fedprune.wire.messages import Submit

_SCHEMA = """
CREATE TABLE IF NOT EXISTS federation (
    only INTEGER PRIMARY KEY CHECK (only = 0), run TEXT NOT NULL, task BLOB NOT NULL, model_values TEXT NOT NULL,
    starts INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS rounds (
    round INTEGER PRIMARY KEY, assigned TEXT NOT NULL, record TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS refused (agent TEXT PRIMARY KEY, digest BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS updates (
    round INTEGER NOT NULL, agent TEXT NOT NULL, submit BLOB NOT NULL, PRIMARY KEY (round, agent)
) STRICT;
"""


class RoundRecord(msgspec.Struct, frozen=True):
    """What a finished round was like.

    `accuracy` and `loss` are the global model's on the held-out examples; `accuracy` is None where the task's loss has
    none (mean squared error), `loss` where its outputs are not finite. `sparsity` is that of the prunable tensors.
    `bytes_up` and `bytes_down` are MQTT payload bytes, all agents together, control included. `seconds` is
    the round's wall time, `train_seconds` the slowest agent's training. `train_loss` is the examples-weighted mean over
    agents. `ignored` counts messages that made no sense, `refused` malformed updates. `peak_memory_mb` is the
    aggregator's high-water mark.
    """

    round: int
    agents: int
    accuracy: float | None
    loss: float | None
    sparsity: float
    bytes_up: int
    bytes_down: int
    seconds: float
    train_seconds: float
    train_loss: float
    ignored: int
    refused: int
    peak_memory_mb: float


class Book:
    """The book over an open connection. Every method raises `StorageError` if SQLite cannot do it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        with self._transaction():
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)

    @classmethod
    def open(cls, path: Path) -> Book:
        with _mapping_errors():
            connection = sqlite3.connect(path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        return cls(connection)

    def start(self, run: str, task: bytes, model_values: str) -> tuple[str, int]:
        """(run, number of this start). A book that is new takes `run`, an old one keeps its own.

        Raises `StorageError` if the book is about another task, or its checkpoints hold what another codec decodes.
        """
        with self._transaction():
            self._connection.execute(
                "INSERT OR IGNORE INTO federation VALUES (0, ?, ?, ?, 0)", (run, task, model_values)
            )
            self._connection.execute("UPDATE federation SET starts = starts + 1")
            row = self._connection.execute("SELECT run, starts, task, model_values FROM federation").fetchone()
            if row[2] != task:
                raise StorageError("the state directory holds a run of another task; name an empty one for this task")
            if row[3] != model_values:
                raise StorageError(f"the run's models are {row[3]}; set codec.model_values so, or name an empty state")
        return row[0], row[1]

    def assign(self, round_: int, agents: frozenset[str]) -> None:
        with self._transaction():
            self._connection.execute(
                "INSERT INTO rounds VALUES (?, ?, NULL) ON CONFLICT (round) DO UPDATE SET assigned = excluded.assigned",
                (round_, " ".join(sorted(agents))),
            )

    def accept(self, agent: str, submit: Submit) -> None:
        """An agent's update of a round is taken, once: a second one is refused by the primary key."""
        with self._transaction():
            self._connection.execute(
                "INSERT INTO updates VALUES (?, ?, ?)", (submit.round, agent, msgspec.msgpack.encode(submit))
            )

    def refuse(self, agent: str, digest: bytes) -> None:
        """An agent's update is malformed for good; only its last one is remembered."""
        with self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO refused VALUES (?, ?)", (agent, digest))

    def refused(self) -> dict[str, bytes]:
        """The digest of each agent's last malformed update."""
        return dict(self._fetch("SELECT agent, digest FROM refused"))

    def finish(self, record: RoundRecord) -> None:
        with self._transaction():
            self._connection.execute(
                "UPDATE rounds SET record = ? WHERE round = ?", (msgspec.json.encode(record).decode(), record.round)
            )

    def next_round(self) -> int:
        """The round that is open, or the next to begin."""
        return int(self._fetch("SELECT count(record) FROM rounds")[0][0])

    def assigned(self, round_: int) -> frozenset[str]:
        rows = self._fetch("SELECT assigned FROM rounds WHERE round = ?", round_)
        return frozenset(rows[0][0].split()) if rows else frozenset()

    def accepted(self, round_: int) -> dict[str, Submit]:
        """The accepted submissions of a round, by agent."""
        rows = self._fetch("SELECT agent, submit FROM updates WHERE round = ? ORDER BY agent", round_)
        return {agent: _submit(blob) for agent, blob in rows}

    def last_accepted(self, before: int) -> dict[str, Submit]:
        """Each agent's last accepted submission of the rounds before `before`."""
        rows = self._fetch("SELECT agent, submit, max(round) FROM updates WHERE round < ? GROUP BY agent", before)
        return {agent: _submit(blob) for agent, blob, _ in rows}

    def records(self) -> list[RoundRecord]:
        rows = self._fetch("SELECT record FROM rounds WHERE record IS NOT NULL ORDER BY round")
        with _mapping_errors():
            return [msgspec.json.decode(row[0], type=RoundRecord) for row in rows]

    def submits(self) -> list[Submit]:
        """All accepted submissions, for reports."""
        return [_submit(row[0]) for row in self._fetch("SELECT submit FROM updates ORDER BY round, agent")]

    def close(self) -> None:
        self._connection.close()

    def _fetch(self, query: str, *parameters: int) -> list[Any]:
        with _mapping_errors():
            return self._connection.execute(query, parameters).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _mapping_errors(), self._connection:
            yield


def _submit(blob: bytes) -> Submit:
    with _mapping_errors():
        return msgspec.msgpack.decode(blob, type=Submit)


@contextmanager
def _mapping_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, msgspec.DecodeError) as error:
        raise StorageError(f"the book: {error}; free space or mend the state directory, nothing is lost") from error
