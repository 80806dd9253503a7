"""The record of an agent's memory: one small file, which names the blobs that count.

Its structs are its own: the wire may change without touching what is stored.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fedprune.wire.messages import Content, Evaluated, Submit

FORMAT = 8
"""Of the record; one of another format is another version's."""

BEFORE_HISTORIES = 7
"""The format of records that know nothing of histories, and are read too: packages are upgraded while rounds go on, and
nobody is to go to each device for it."""

MOST_REMEMBERED = 8
"""Updates that were accepted and whose signs are remembered: as many as one may be coded by."""


class StoredEvaluation(msgspec.Struct, frozen=True):
    """An evaluation, as it was submitted."""

    examples: int
    loss: float | None
    tallies: bytes


class Shared(msgspec.Struct, frozen=True):
    """An update once more, in the blob `update`, coded without the agent's history."""

    update: str
    digest: bytes
    size: int


class Pending(msgspec.Struct, frozen=True):
    """An update on its way, as it was submitted, with the names of the blobs that its fate will choose from, which are
    in the form of the task that `form` names.

    `residuals` are those that `late` could leave: the update as it was coded first. `shared`: what is sent instead, if
    the gateway remembers another history than that is by. `signs`: what is remembered of it, if its codec remembers.
    """

    run: str
    round: int
    digest: bytes
    size: int
    examples: int
    local_steps: int
    loss: float
    train_seconds: float
    idle_memory_mb: int
    peak_memory_mb: int
    x_mean: float
    x_largest: float
    evaluated: StoredEvaluation | None
    update: str
    residuals: str
    late: str
    slots: str | None
    local: str | None
    form: bytes
    shared: Shared | None
    signs: str | None

    def submit(self) -> Submit:
        return Submit(
            run=self.run,
            round=self.round,
            update=Content(digest=self.digest, size=self.size),
            examples=self.examples,
            local_steps=self.local_steps,
            loss=self.loss,
            train_hundredths=round(100 * self.train_seconds),
            idle_memory_mb=self.idle_memory_mb,
            peak_memory_mb=self.peak_memory_mb,
            x_mean=self.x_mean,
            x_largest=self.x_largest,
            evaluated=None if self.evaluated is None else Evaluated(**msgspec.structs.asdict(self.evaluated)),
        )


class Owed(msgspec.Struct, frozen=True):
    """The legacy of round `round` of `run`, the last that the agent took part in, to the next. `residuals` are those
    that its update could leave; if that was late, all of it is owed, and `late` names it. `form` names the form of the
    task that it is in."""

    run: str
    round: int
    residuals: str
    late: str | None
    slots: str | None
    local: str | None
    form: bytes


class Remembered(msgspec.Struct, frozen=True):
    """The signs of the last updates of `run` that were accepted, the newest first, of each the name of a blob."""

    run: str
    signs: tuple[str, ...]


class Record(msgspec.Struct, frozen=True):
    format: int
    agent: str
    federation: str
    done: tuple[tuple[str, int], ...] = ()
    durations: tuple[float, ...] = ()
    durations_task: bytes = b""
    owed: Owed | None = None
    pending: Pending | None = None
    remembered: Remembered | None = None

    def blobs(self) -> set[str]:
        """The names of all blobs that this record refers to."""
        names: set[str | None] = set()
        if self.owed is not None:
            names |= {self.owed.residuals, self.owed.late, self.owed.slots, self.owed.local}
        if self.pending is not None:
            names |= {self.pending.update, self.pending.residuals, self.pending.slots, self.pending.local}
            names |= {self.pending.late, self.pending.signs}
            if self.pending.shared is not None:
                names.add(self.pending.shared.update)
        if self.remembered is not None:
            names |= {*self.remembered.signs}
        return {name for name in names if name is not None}

    def settled(self, done: tuple[tuple[str, int], ...], *, late: bool) -> Record:
        """The record once the pending update counts, or is late."""
        pending = self.pending
        assert pending is not None
        owed = Owed(
            pending.run,
            pending.round,
            pending.residuals,
            pending.late if late else None,
            pending.slots,
            pending.local,
            pending.form,
        )
        remembered = self.remembered if late else self._remembering(pending)
        return msgspec.structs.replace(self, done=done, owed=owed, pending=None, remembered=remembered)

    def sending_shared(self) -> Record:
        """The record once the gateway has said that it remembers another history: that is forgotten here too, and the
        pending update goes as it is coded without."""
        pending = self.pending
        assert pending is not None
        assert pending.shared is not None
        update, digest, size = msgspec.structs.astuple(pending.shared)
        pending = msgspec.structs.replace(pending, update=update, digest=digest, size=size, shared=None)
        return msgspec.structs.replace(self, pending=pending, remembered=None)

    def _remembering(self, accepted: Pending) -> Remembered | None:
        if accepted.signs is None:
            return None
        former = self.remembered
        before = former.signs if former is not None and former.run == accepted.run else ()
        return Remembered(accepted.run, (accepted.signs, *before)[:MOST_REMEMBERED])


def read_record(blob: bytes, format_: int) -> Record:
    """Read a record of `FORMAT` or of `BEFORE_HISTORIES`. Raises msgspec's `DecodeError`s, and `UnicodeDecodeError`."""
    if format_ == FORMAT:
        return msgspec.json.decode(blob, type=Record)
    former: dict[str, Any] = msgspec.json.decode(blob, type=dict[str, Any]) | {"format": FORMAT}
    if isinstance(pending := former.get("pending"), dict):
        former["pending"] = pending | {"late": pending.get("update"), "shared": None, "signs": None}
    return msgspec.json.decode(msgspec.json.encode(former), type=Record)
