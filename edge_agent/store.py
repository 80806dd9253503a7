"""The memory of an agent across crashes: its pending update, residual, optimizer slots, local tensors, task bundles,
and history.

Blobs are written first, under names made of their digest; then one small record that refers to them replaces the
last one (`edge_agent.record`). So each change happens whole or not at all, whenever the power goes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from itertools import takewhile
from typing import Any, TypeVar

import msgspec
from numpy.typing import NDArray

from edge_agent.agent_state import Outcome
from edge_agent.held_model import HeldModel
from edge_agent.history import Durations, RoundsDone
from edge_agent.local_round import PreparedUpdate
from edge_agent.record import BEFORE_HISTORIES, FORMAT, Owed, Pending, Record, Shared, StoredEvaluation, read_record
from edge_agent.trainers import Slots
from fedprune.errors import StorageError, StorageOfOtherVersion, TaskError
from fedprune.model.tensor_files import pack_tensors, unpack_tensors
from fedprune.model.tensors import Weights
from fedprune.system.disk import Disk
from fedprune.wire.messages import Submit
from fedprune.wire.received_chunks import ReceivedChunks

_log = logging.getLogger(__name__)

RESIDUAL_AGE_LIMIT = 8
"""Rounds after which a residual says nothing about the model any more and is dropped."""

_RECORD = "agent.json"
_FORMER_RECORD = "memory.json"
_TASK_SUFFIX = ".fedtask"
_TENSORS_SUFFIX = ".safetensors"
_RESIDUALS_SUFFIX = ".residuals"
_UPDATE_SUFFIX = ".update"
_SIGNS_SUFFIX = ".signs"


_Unpacked = TypeVar("_Unpacked")


class _Format(msgspec.Struct, frozen=True):
    """All that is read of a record before it is known that this version can read the rest."""

    format: int


class AgentStore:
    """An agent's memory on a `Disk`, for one agent of one federation.

    Every method raises `StorageError` if the disk refuses, the constructor also if its record is nonsense or belongs to
    another agent, or to another version. A blob that is damaged ends nothing: without a residual or optimizer state
    training only learns less, a task is fetched again, and an update that cannot be sent any more is given up.
    """

    def __init__(self, disk: Disk, agent: str, federation: str) -> None:
        self._disk = disk
        self._record = self._load(agent, federation)
        self._give_up_damaged_update()
        self._clean()

    @property
    def done(self) -> RoundsDone:
        return RoundsDone(self._record.done)

    @property
    def durations(self) -> Durations:
        return Durations(self._record.durations_task, self._record.durations)

    @property
    def pending(self) -> Submit | None:
        """The submission whose answer is outstanding."""
        return self._record.pending.submit() if self._record.pending else None

    @property
    def held(self) -> HeldModel:
        """The model that the agent decoded last."""
        return HeldModel(self._disk)

    def counted(self, run: str) -> int | None:
        """The last round of `run` that the agent took part in, if its update was accepted."""
        owed = self._owed(run, 0)
        return None if owed is None or owed.late is not None else owed.round

    def received(self, most_bytes: int) -> ReceivedChunks:
        """The chunks of contents that are on their way, of so many bytes together."""
        return ReceivedChunks(self._disk, most_bytes)

    def tasks(self) -> frozenset[bytes]:
        """Digests of the task bundles that are kept."""
        names = (name.removesuffix(_TASK_SUFFIX) for name in self._disk.names() if name.endswith(_TASK_SUFFIX))
        return frozenset(bytes.fromhex(name) for name in names if _is_hex(name))

    def keep_task(self, digest: bytes, blob: bytes) -> None:
        """Keep a task bundle, and no other: a device serves one federation at a time."""
        kept = digest.hex() + _TASK_SUFFIX
        self._disk.write(kept, blob)
        for name in self._disk.names():
            if name.endswith(_TASK_SUFFIX) and name != kept:
                self._disk.delete(name)

    def task(self, digest: bytes) -> bytes:
        """Raises `TaskError` for one that is missing or damaged: it is forgotten, and can be fetched again."""
        name = digest.hex() + _TASK_SUFFIX
        blob = self._disk.read(name)
        if blob is None or hashlib.sha256(blob).digest() != digest:
            self._disk.delete(name)
            raise TaskError("the task bundle on this device's disk is damaged; it is fetched again")
        return blob

    def residual(self, run: str, round_: int, since: int = 0) -> Weights | None:
        """The residual that earlier rounds of `run` left, but none before round `since`.

        None if there is none, or it is too old or damaged.
        """
        owed = self._owed(run, since)
        if owed is None or round_ - owed.round > RESIDUAL_AGE_LIMIT:
            return None
        blob, late = self._read(owed.residuals), None if owed.late is None else self._read(owed.late)
        if blob is None or (owed.late is not None and late is None):
            return None
        from edge_agent.residual_files import unpack_residual  # an agent that waits does without

        return self._unpacked(owed.residuals, lambda: unpack_residual(blob, late))

    def slots(self, run: str, since: int = 0) -> Slots | None:
        """The optimizer state that the last round of `run` left, but none before round `since`.

        None if there is none, or it is damaged.
        """
        owed = self._owed(run, since)
        return None if owed is None or owed.slots is None else self._tensors(owed.slots)

    def local(self, run: str, since: int = 0) -> Weights | None:
        """The tensors that are this device's own, as the last round of `run` left them, but none from before `since`.

        None if there are none, or they are damaged: then they are what they were at first.
        """
        owed = self._owed(run, since)
        return None if owed is None or owed.local is None else self._tensors(owed.local)

    def remembered(self, run: str) -> tuple[bytes, ...]:
        """The signs of the last updates of `run` that were accepted, the newest first, up to one that is damaged."""
        found = self._record.remembered
        names = found.signs if found is not None and found.run == run else ()
        return tuple(takewhile(lambda signs: signs is not None, map(self._read, names)))  # type: ignore[arg-type]

    def owed_form(self, run: str, since: int = 0) -> bytes:
        """The name of the form of the task that all this is in: residual, slots and own tensors."""
        owed = self._owed(run, since)
        return b"" if owed is None else owed.form

    def remember(
        self,
        submit: Submit,
        update: PreparedUpdate,
        slots: Slots | None,
        durations: Durations,
        local: Weights | None = None,
        form: bytes = b"",
    ) -> None:
        """Make an update and everything that hangs on its fate durable. It replaces a pending one."""
        from edge_agent.residual_files import pack_residuals  # an agent that waits does without

        written = self._write(update.blob, _UPDATE_SUFFIX)
        pending = Pending(
            run=submit.run,
            round=submit.round,
            digest=submit.content.digest,
            size=submit.content.size,
            examples=submit.examples,
            local_steps=submit.local_steps,
            loss=submit.loss,
            train_seconds=submit.train_hundredths / 100,
            idle_memory_mb=submit.idle_memory_mb,
            peak_memory_mb=submit.peak_memory_mb,
            x_mean=submit.x_mean,
            x_largest=submit.x_largest,
            evaluated=None
            if submit.evaluated is None
            else StoredEvaluation(**msgspec.structs.asdict(submit.evaluated)),
            update=written,
            late=written,
            residuals=self._write(pack_residuals(update), _RESIDUALS_SUFFIX),
            slots=None if slots is None else self._write(pack_tensors(slots), _TENSORS_SUFFIX),
            local=None if local is None else self._write(pack_tensors(local), _TENSORS_SUFFIX),
            form=form,
            shared=None if update.shared is None else self._write_shared(update.shared),
            signs=self._write(update.signs, _SIGNS_SUFFIX) if update.signs else None,
        )
        owed = self._record.owed
        self._commit(
            msgspec.structs.replace(
                self._record,
                durations=durations.seconds,
                durations_task=durations.task,
                owed=owed if owed is not None and owed.run == submit.run else None,
                pending=pending,
            )
        )

    def update(self) -> bytes:
        """The pending update's bytes."""
        assert self._record.pending is not None
        blob = self._intact(self._record.pending.update)
        if blob is None:
            raise StorageError(
                f"the agent's {self._record.pending.update} is damaged; check the disk, and start the agent again"
            )
        return blob

    def send_shared(self) -> Submit | None:
        """Take the pending update as it is coded without the agent's history, and forget that, in one durable step.

        Returns the submission; None if it is coded so already.
        """
        pending = self._record.pending
        if pending is None or pending.shared is None:
            return None
        self._commit(self._record.sending_shared())
        return self.pending

    def settle(self, outcome: Outcome) -> None:
        """The pending update was answered: the residual becomes what its fate leaves, the update is forgotten.

        An invalid one leaves nothing, and its round is not done: it may be tried once more.
        """
        pending = self._record.pending
        assert pending is not None
        if outcome is Outcome.INVALID:
            self._commit(msgspec.structs.replace(self._record, owed=None, pending=None))
            return
        done = self.done.with_round(pending.run, pending.round).last
        self._commit(self._record.settled(done, late=outcome is Outcome.LATE))

    def _owed(self, run: str, since: int) -> Owed | None:
        owed = self._record.owed
        return owed if owed is not None and owed.run == run and owed.round >= since else None

    def _load(self, agent: str, federation: str) -> Record:
        blob = self._disk.read(_RECORD)
        if blob is None:
            if _FORMER_RECORD in self._disk.names():
                raise _of_another_version()
            return Record(FORMAT, agent, federation)
        try:
            found = msgspec.json.decode(blob, type=_Format).format
            if found not in (FORMAT, BEFORE_HISTORIES):
                raise _of_another_version()
            record = read_record(blob, found)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StorageError(f"the agent's {_RECORD}: {error}; delete its state directory to start afresh") from error
        if (record.agent, record.federation) != (agent, federation):
            raise StorageError(
                f"this state directory belongs to agent {record.agent} of federation {record.federation}; "
                "name another with --state"
            )
        return record

    def _commit(self, record: Record) -> None:
        self._disk.write(_RECORD, msgspec.json.encode(record))
        self._record = record
        self._clean()

    def _clean(self) -> None:
        """Delete the blobs that the record does not refer to: a crash leaves some, and each change."""
        kept = self._record.blobs()
        for name in self._disk.names():
            if name.endswith((_TENSORS_SUFFIX, _RESIDUALS_SUFFIX, _UPDATE_SUFFIX, _SIGNS_SUFFIX)) and name not in kept:
                self._disk.delete(name)

    def _write(self, blob: bytes, suffix: str) -> str:
        name = _stem(blob) + suffix
        self._disk.write(name, blob)
        return name

    def _write_shared(self, blob: bytes) -> Shared:
        return Shared(self._write(blob, _UPDATE_SUFFIX), hashlib.sha256(blob).digest(), len(blob))

    def _read(self, name: str) -> bytes | None:
        """Tensors' bytes; None if they are damaged, which is said."""
        blob = self._intact(name)
        if blob is None:
            _log.warning("%s is damaged, which costs what earlier rounds left; check the disk", name)
        return blob

    def _tensors(self, name: str) -> dict[str, NDArray[Any]] | None:
        blob = self._read(name)
        return None if blob is None else self._unpacked(name, lambda: unpack_tensors(blob))

    def _unpacked(self, name: str, unpack: Callable[[], _Unpacked]) -> _Unpacked | None:
        """What a file holds whose digest is right; None, which is said, if that is nothing that an agent wrote."""
        try:
            return unpack()
        except ValueError as error:
            _log.warning("%s is damaged (%s), which costs what earlier rounds left; check the disk", name, error)
            return None

    def _give_up_damaged_update(self) -> None:
        pending = self._record.pending
        if pending is not None and self._intact(pending.update) is None:
            _log.warning("the update of round %s is damaged and given up; check the disk", pending.round + 1)
            self._commit(msgspec.structs.replace(self._record, pending=None))

    def _intact(self, name: str) -> bytes | None:
        """A blob that holds what its name says."""
        blob = self._disk.read(name)
        return blob if blob is not None and name.startswith(_stem(blob)) else None


def _stem(blob: bytes) -> str:
    """What a blob is called, but for the suffix."""
    return hashlib.sha256(blob).hexdigest()[:32]


def _of_another_version() -> StorageOfOtherVersion:
    return StorageOfOtherVersion(
        "this state directory was written by another version of fedprune; "
        "let that one finish its federation, or name another with --state"
    )


def _is_hex(name: str) -> bool:
    return len(name) == 64 and all(digit in "0123456789abcdef" for digit in name)
