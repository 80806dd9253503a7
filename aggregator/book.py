"""The aggregator's book, in SQLite: what was accepted, who was assigned, which rounds are finished.

A round is in one of three states: not begun (no row), open (a cohort), finished (a record). What the book says is
durable when the call returns; after a crash the aggregator goes on from here and from the last checkpoint. Its rows
are the book's own: a change of the messages does not change what a state directory means.
"""

from __future__ import annotations

import itertools
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from aggregator.book_tables import FORMAT, SCHEMA
from aggregator.remembered import NO_SIGNS, RECALL, forget, remember
from aggregator.settings import began_with
from fedprune.codecs.history import MOST_UPDATES
from fedprune.errors import StorageError, StorageOfOtherVersion
from fedprune.model.metrics import Metric

RUN_ID_BYTES = 3
"""Random bytes of a run's id, 4 letters: messages name it, and an agent remembers 16 at most."""

_TICKET_KEY_BYTES = 16

MOST_NAMES = 20
"""Agents that a record names."""

NOTHING: Mapping[str, str] = MappingProxyType({})


class AcceptedUpdate(msgspec.Struct, frozen=True, gc=False):
    """An update that counts, as `weight` examples, unless it is left out of the merge.

    Up to `x_largest` it is what the agent said of its training and its inputs; the norms were measured
    (`aggregator.outliers`). It is of `local_steps`, as the agent said, and counts as `counted_steps`
    (`aggregator.local_work`). What follows these is its evaluation of the model that it trained from: on how many
    examples (0 without one), the mean loss (None if that was not finite), and the tallies, which are forgotten with the
    round. Until then its bytes are in `file`, from `place` on.
    """

    digest: bytes
    size: int
    weight: int
    loss: float
    train_seconds: float
    idle_memory_mb: float
    peak_memory_mb: float
    x_mean: float
    x_largest: float
    delta_norm: float
    statistics_norm: float
    local_steps: int
    counted_steps: int
    evaluated_examples: int = 0
    evaluated_loss: float | None = None
    tallies: bytes = b""
    file: str = ""
    place: int = 0


class Spread(msgspec.Struct, frozen=True):
    """A figure's spread over the `agents` that evaluated a model, from the worst one, `worst_agent`, to the best."""

    agents: int
    worst: float
    quartiles: tuple[float, float, float]
    best: float
    worst_agent: str


class RoundRecord(msgspec.Struct, frozen=True):
    """The figures of a finished round.

    `loss` and `metrics`, by name in the task's order, are those of the global model of `evaluated_version` on the
    held-out examples: of the new one on the gateway's or, where it has none, of the one before on the agents'. They are
    None where its outputs are not finite, or the examples do not define them. `spreads`: that of each, by name, over
    the agents that evaluated the one before. `sparsity` is that of the prunable tensors.
    `bytes_up` and `bytes_down` are MQTT payload bytes, summed over the agents, control included, and `bytes_up_by_kind`
    and `bytes_down_by_kind` parts of them (see `aggregator.traffic`); `mqtt_up` and `mqtt_down` the bytes of whole
    packets, with topics and acknowledgements, of so many messages. `led_astray` counts how often what a member held led
    to another model than the gateway's, which it then fetched whole. `seconds` is the round's wall time,
    `train_seconds` the slowest agent's training. `train_loss` is the examples-weighted mean over agents. `ignored`
    counts messages that made no sense, `refused` malformed updates, `capped` those that weigh fewer examples than they
    claim. `peak_memory_mb` is the aggregator's high-water mark, `bytes_written` what it had written to disks, None
    where the kernel does not count.

    `left_out` counts accepted updates that the merge does without: outliers, or all where the merge made the loss
    explode and so was not `kept`; `outliers` names their agents, the largest first. `suspects` names the agents whose
    loss or inputs stand apart from the others' for some rounds now. Both name `MOST_NAMES` at most. The norms are those
    that were typical of the updates that were merged, 0 if none was. `hint` says, in one round of a run that learns
    nothing, what may be wrong (`aggregator.chance`).
    """

    round: int
    agents: int
    evaluated_version: int
    loss: float | None
    metrics: dict[str, float | None]
    spreads: dict[str, Spread]
    sparsity: float
    bytes_up: int
    bytes_down: int
    seconds: float
    train_seconds: float
    train_loss: float
    ignored: int
    refused: int
    capped: int
    peak_memory_mb: float
    kept: bool
    left_out: int
    outliers: tuple[str, ...]
    suspects: tuple[str, ...]
    delta_norm: float
    statistics_norm: float
    bytes_up_by_kind: dict[str, int] = {}
    bytes_down_by_kind: dict[str, int] = {}
    mqtt_up: int = 0
    mqtt_down: int = 0
    messages_up: int = 0
    messages_down: int = 0
    led_astray: int = 0
    bytes_written: int | None = None
    hint: str = ""

    @property
    def control_bytes(self) -> float:
        """Payload bytes both ways, of an agent on average, that are neither of a model nor of an update or the task."""
        kind = "control"
        return (self.bytes_up_by_kind.get(kind, 0) + self.bytes_down_by_kind.get(kind, 0)) / max(1, self.agents)

    @property
    def messages(self) -> float:
        """MQTT messages both ways, of an agent on average."""
        return (self.messages_up + self.messages_down) / max(1, self.agents)

    @property
    def accuracy(self) -> float | None:
        """None where it is none of the task's metrics, too."""
        return self.metrics.get(Metric.ACCURACY)


class Book:
    """The book over an open connection. Every method raises `StorageError` if SQLite cannot do it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        with self._transaction():
            self._prepare()

    @classmethod
    def open(cls, path: Path) -> Book:
        with _mapping_errors():
            connection = sqlite3.connect(path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        try:
            return cls(connection)
        except StorageError:
            connection.close()  # SQLite's own files, which it made beside the book, go with it
            raise

    def start(
        self, run: str, task: bytes, settings: Mapping[str, str], ticket_key: bytes | None = None
    ) -> tuple[str, int]:
        """(run, number of this start). A book that is new takes `run` and `ticket_key`, an old one keeps its own.

        `settings` are those that a run cannot change: checkpoints, deltas and what agents hold follow from them.

        Raises `StorageError` if the book is about another task, or the run began with other settings.
        """
        with self._transaction():
            key = secrets.token_bytes(_TICKET_KEY_BYTES) if ticket_key is None else ticket_key
            self._connection.execute(
                "INSERT OR IGNORE INTO federation VALUES (0, ?, ?, ?, 0, ?, 0)",
                (run, task, msgspec.json.encode(settings).decode(), key),
            )
            self._connection.execute("UPDATE federation SET starts = starts + 1")
            row = self._connection.execute("SELECT run, starts, task, settings FROM federation").fetchone()
            if row[2] != task:
                raise StorageError("the state directory holds a run of another task; name an empty one for this task")
            for name, value in msgspec.json.decode(row[3], type=dict[str, str]).items():
                if settings.get(name) != value:
                    raise StorageError(began_with(name, value))
        return row[0], row[1]

    @property
    def ticket_key(self) -> bytes:
        """The secret that makes tickets. It lasts as long as the run, so that a fleet need not be given new ones."""
        return bytes(self._fetch("SELECT ticket_key FROM federation")[0][0])

    @property
    def is_new(self) -> bool:
        """No run has begun in it."""
        return not self._fetch("SELECT count(*) FROM federation")[0][0]

    def assign(self, round_: int, examples: Mapping[str, int], cap: int) -> None:
        """Agents join a round's cohort, each with the most examples that its update may weigh; `cap` bounds all."""
        with self._transaction():
            self._connection.execute("INSERT OR IGNORE INTO rounds VALUES (?, ?, NULL)", (round_, cap))
            self._connection.executemany(
                "INSERT OR REPLACE INTO cohort VALUES (?, ?, ?)",
                [(round_, agent, count) for agent, count in examples.items()],
            )

    def accept(self, round_: int, updates: Mapping[str, AcceptedUpdate], signs: Mapping[str, bytes] = NO_SIGNS) -> None:
        """Agents' updates of an open round are taken, each once: a second one is refused by the primary key. `signs`
        are remembered of them.

        Raises `StorageError` for a round that is not open: what it merged could not hold these updates.
        """
        with self._transaction():
            taken = self._connection.executemany(
                f"INSERT INTO updates (round, agent, {_UPDATE}) SELECT ?1, {', '.join('?' * (1 + len(_FIELDS)))} "
                "WHERE EXISTS (SELECT 1 FROM rounds WHERE round = ?1 AND record IS NULL)",
                [(round_, agent, *msgspec.structs.astuple(update)) for agent, update in updates.items()],
            )
            if taken.rowcount != len(updates):
                raise StorageError(
                    f"the book: round {round_ + 1} is not open, so updates of {', '.join(updates)} cannot count in it; "
                    "does another aggregator use this state directory?"
                )
            remember(self._connection, round_, signs)

    def refuse(self, digests: Mapping[str, bytes]) -> None:
        """Agents' updates, by their digests, are malformed for good; of each agent the last one is remembered."""
        with self._transaction():
            self._connection.executemany("INSERT OR REPLACE INTO refused VALUES (?, ?)", list(digests.items()))

    def refused(self) -> dict[str, bytes]:
        """The digest of each agent's last malformed update."""
        return dict(self._fetch("SELECT agent, digest FROM refused"))

    def finish(
        self,
        record: RoundRecord,
        left_out: Mapping[str, str] = NOTHING,
        apart: Mapping[str, str] = NOTHING,
        *,
        forgets: bool = True,
    ) -> None:
        """A round is merged. `left_out` and `apart` give the reasons for what the record says of agents, by agent.
        Unless it `forgets`, its updates may be merged once more, until `forget`."""
        with self._transaction():
            for column, reasons in (("left_out", left_out), ("apart", apart)):
                self._connection.executemany(
                    f"UPDATE updates SET {column} = ? WHERE round = ? AND agent = ?",
                    [(why, record.round, agent) for agent, why in reasons.items()],
                )
            if forgets:
                self._forget(record.round)
            self._connection.execute(
                "UPDATE rounds SET record = ? WHERE round = ?", (msgspec.json.encode(record).decode(), record.round)
            )

    def forget(self, round_: int) -> None:
        """Nobody merges a round's updates any more: what only that takes goes."""
        with self._transaction():
            self._forget(round_)

    def leave_out(self, round_: int, reasons: Mapping[str, str]) -> None:
        """Agents' accepted updates of a round do not count after all, for these reasons."""
        with self._transaction():
            self._connection.executemany(
                "UPDATE updates SET left_out = ? WHERE round = ? AND agent = ?",
                [(why, round_, agent) for agent, why in reasons.items()],
            )

    def latest(self, before: int) -> int | None:
        """The last round before `before` of which an update was accepted."""
        found: int | None = self._fetch("SELECT max(round) FROM updates WHERE round < ?", before)[0][0]
        return found

    def roll_back(self, round_: int, run: str) -> None:
        """Undo `round_` and all rounds after it. The run goes on under a new id, of which agents have done no round."""
        with self._transaction():
            for table in ("rounds", "cohort", "updates", "remembered"):
                self._connection.execute(f"DELETE FROM {table} WHERE round >= ?", (round_,))
            self._connection.execute("INSERT INTO former_runs SELECT run FROM federation")
            self._connection.execute("UPDATE federation SET run = ?, began = ?", (run, round_))

    def runs(self) -> set[str]:
        """The run's id, and those that it had before it was rolled back."""
        return {row[0] for row in self._fetch("SELECT run FROM federation UNION SELECT run FROM former_runs")}

    def next_round(self) -> int:
        """The round that is open, or the next to begin."""
        return int(self._fetch("SELECT count(record) FROM rounds")[0][0])

    def last_round(self) -> int:
        """The last round that agents were assigned to; 0 if none was."""
        return int(self._fetch("SELECT ifnull(max(round), 0) FROM rounds")[0][0])

    def cohort(self, round_: int) -> tuple[dict[str, int], int]:
        """The agents assigned to a round with the most examples that each may weigh, and the round's cap."""
        caps = self._fetch("SELECT cap FROM rounds WHERE round = ?", round_)
        rows = self._fetch("SELECT agent, examples FROM cohort WHERE round = ? ORDER BY agent", round_)
        return dict(rows), caps[0][0] if caps else 0

    def accepted(self, round_: int) -> dict[str, AcceptedUpdate]:
        """The accepted updates of a round, by agent."""
        return self._updates("round = ?", round_)

    def merged(self, round_: int) -> dict[str, AcceptedUpdate]:
        """The updates of a round that its merge was made of, by agent."""
        return self._updates("round = ? AND left_out IS NULL", round_)

    def last_accepted(self, before: int) -> dict[str, bytes]:
        """The digest of each agent's last accepted update of the rounds before `before`."""
        rows = self._fetch("SELECT agent, digest, max(round) FROM updates WHERE round < ? GROUP BY agent", before)
        return {agent: digest for agent, digest, _ in rows}

    def remembered(self, agent: str, before: int) -> list[bytes]:
        """The signs of an agent's last accepted updates of the rounds before `before`, the newest first."""
        return [signs for (signs,) in self._fetch(RECALL, agent, before, MOST_UPDATES)]

    def left_out(self) -> dict[str, tuple[int, str]]:
        """The round and the reason of each agent's last update that a merge did without, under the run's present id."""
        rows = self._fetch(
            "SELECT agent, max(round), left_out FROM updates, federation WHERE left_out NOT NULL AND round >= began "
            "GROUP BY agent"
        )
        return {agent: (round_, why) for agent, round_, why in rows}

    def left_out_in(self, round_: int) -> dict[str, str]:
        """The reasons for a round's updates that its merge did without, by agent."""
        return dict(self._fetch("SELECT agent, left_out FROM updates WHERE round = ? AND left_out NOT NULL", round_))

    def rounds_apart(self, agent: str, before: int, most: int) -> int:
        """How many of an agent's last `most` updates of the rounds before `before`, without a gap, stood apart."""
        rows = self._fetch(
            "SELECT apart FROM updates WHERE agent = ? AND round < ? ORDER BY round DESC LIMIT ?", agent, before, most
        )
        return len(list(itertools.takewhile(lambda row: row[0] is not None, rows)))

    def records(self) -> list[RoundRecord]:
        rows = self._fetch("SELECT record FROM rounds WHERE record IS NOT NULL ORDER BY round")
        with _mapping_errors():
            return [msgspec.json.decode(row[0], type=RoundRecord) for row in rows]

    def updates(self) -> list[AcceptedUpdate]:
        """All accepted updates, for reports."""
        return [AcceptedUpdate(*each) for each in self._fetch(f"SELECT {_UPDATE} FROM updates ORDER BY round, agent")]

    def close(self) -> None:
        self._connection.close()

    def _forget(self, round_: int) -> None:
        self._connection.execute("UPDATE updates SET tallies = x'' WHERE round = ?", (round_,))
        forget(self._connection, round_)

    def _prepare(self) -> None:
        """Make the tables of a new book. Raises `StorageError` for a book of another format."""
        found = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if not self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            for statement in filter(str.strip, SCHEMA.split(";")):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {FORMAT}")
        elif found != FORMAT:
            raise StorageOfOtherVersion(
                f"the book: format {found}, this fedprune reads {FORMAT}; go on with the version that began the run, "
                "or name an empty state directory"
            )

    def _fetch(self, query: str, *parameters: int | str) -> list[Any]:
        with _mapping_errors():
            return self._connection.execute(query, parameters).fetchall()

    def _updates(self, which: str, round_: int) -> dict[str, AcceptedUpdate]:
        with _mapping_errors():  # row by row: all rows would take as much memory again
            query = f"SELECT agent, {_UPDATE} FROM updates WHERE {which} ORDER BY agent"
            return {agent: AcceptedUpdate(*each) for agent, *each in self._connection.execute(query, (round_,))}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All that is executed meanwhile happens, or nothing does. It is begun here: Python's module begins one by
        itself only before rows are changed, so that each table would be made in a transaction of its own."""
        with _mapping_errors(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield


_FIELDS = AcceptedUpdate.__struct_fields__
_UPDATE = ", ".join(_FIELDS)


@contextmanager
def _mapping_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, msgspec.DecodeError) as error:
        raise StorageError(f"the book: {error}; free space or mend the state directory, nothing is lost") from error
