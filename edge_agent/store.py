"""What an agent remembers across crashes: its pending update, residual, optimizer slots and task bundles.

Blobs are written first, under names made of their digest; then one small record that refers to them replaces the
last one. So each change happens whole or not at all, whenever the power goes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.agent_machine import Outcome
from edge_agent.trainers import Slots
from edge_agent.updates import PreparedUpdate
from fedprune.errors import StorageError
from fedprune.model.tensor_files import pack_tensors, unpack_tensors
from fedprune.model.tensors import Weights
from fedprune.system.disk import Disk
from fedprune.wire.messages import Submit

RESIDUAL_AGE_LIMIT = 8
"""Rounds after which a residual says nothing about the model any more and is dropped."""

_RECORD = "memory.json"
_TASK_SUFFIX = ".fedtask"
_TENSORS_SUFFIX = ".safetensors"
_UPDATE_SUFFIX = ".update"


class _Pending(msgspec.Struct, frozen=True):
    """An update on its way, with the names of the blobs that its fate will choose from."""

    submit: Submit
    update: str
    residual_if_accepted: str
    residual_if_late: str
    slots: str | None


class _Record(msgspec.Struct, frozen=True):
    run: str = ""
    settled: int = -1
    residual: str | None = None
    slots: str | None = None
    pending: _Pending | None = None

    def blobs(self) -> set[str]:
        """The names of all blobs that this record refers to."""
        names = {self.residual, self.slots}
        if self.pending is not None:
            names |= {self.pending.update, self.pending.residual_if_accepted}
            names |= {self.pending.residual_if_late, self.pending.slots}
        return {name for name in names if name is not None}


class AgentStore:
    """An agent's memory on a `Disk`. Every method raises `StorageError` if the disk refuses or holds nonsense."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._record = self._load()

    @property
    def run(self) -> str:
        return self._record.run

    @property
    def settled(self) -> int:
        return self._record.settled

    @property
    def pending(self) -> Submit | None:
        """The submission whose answer is outstanding."""
        return self._record.pending.submit if self._record.pending else None

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
        name = digest.hex() + _TASK_SUFFIX
        blob = self._read(name)
        if hashlib.sha256(blob).digest() != digest:
            self._disk.delete(name)
            raise StorageError(f"task bundle {name} is damaged; it was deleted and will be fetched again")
        return blob

    def residual(self, run: str, round_: int) -> Weights | None:
        """What is owed from earlier rounds of `run`, unless that is too long ago."""
        record = self._record
        if record.residual is None or record.run != run or round_ - record.settled > RESIDUAL_AGE_LIMIT:
            return None
        return self._tensors(record.residual)

    def slots(self, run: str) -> Slots | None:
        """The optimizer state that the last round of `run` left."""
        if self._record.slots is None or self._record.run != run:
            return None
        return self._tensors(self._record.slots)

    def remember(self, submit: Submit, update: PreparedUpdate, slots: Slots | None) -> None:
        """Make an update and everything that hangs on its fate durable. It replaces a pending one."""
        pending = _Pending(
            submit,
            update=self._write(update.blob, _UPDATE_SUFFIX),
            residual_if_accepted=self._write_tensors(update.residual_if_accepted),
            residual_if_late=self._write_tensors(update.residual_if_late),
            slots=None if slots is None else self._write_tensors(slots),
        )
        same_run = self._record.run == submit.run
        record = self._record if same_run else _Record(run=submit.run)
        self._commit(msgspec.structs.replace(record, pending=pending))

    def update(self) -> bytes:
        """The pending update's bytes."""
        assert self._record.pending is not None
        return self._read(self._record.pending.update)

    def settle(self, outcome: Outcome) -> None:
        """The pending update was answered: the residual becomes what its fate leaves, the update is forgotten."""
        pending = self._record.pending
        assert pending is not None
        residual = {
            Outcome.ACCEPTED: pending.residual_if_accepted,
            Outcome.LATE: pending.residual_if_late,
            Outcome.INVALID: None,
        }[outcome]
        slots = None if outcome is Outcome.INVALID else pending.slots
        self._commit(_Record(run=pending.submit.run, settled=pending.submit.round, residual=residual, slots=slots))

    def _load(self) -> _Record:
        blob = self._disk.read(_RECORD)
        if blob is None:
            return _Record()
        try:
            return msgspec.json.decode(blob, type=_Record)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StorageError(f"the agent's {_RECORD}: {error}; delete its state directory to start afresh") from error

    def _commit(self, record: _Record) -> None:
        self._disk.write(_RECORD, msgspec.json.encode(record))
        self._record = record
        kept = record.blobs()
        for name in self._disk.names():
            if name.endswith((_TENSORS_SUFFIX, _UPDATE_SUFFIX)) and name not in kept:
                self._disk.delete(name)

    def _write(self, blob: bytes, suffix: str) -> str:
        name = hashlib.sha256(blob).hexdigest()[:32] + suffix
        self._disk.write(name, blob)
        return name

    def _write_tensors(self, tensors: Mapping[str, NDArray[np.generic]]) -> str:
        return self._write(pack_tensors(tensors), _TENSORS_SUFFIX)

    def _tensors(self, name: str) -> dict[str, NDArray[np.float32]]:
        try:
            return unpack_tensors(self._read(name))
        except ValueError as error:
            raise StorageError(f"the agent's {name}: {error}; delete its state directory to start afresh") from error

    def _read(self, name: str) -> bytes:
        blob = self._disk.read(name)
        if blob is None:
            raise StorageError(f"the agent's {name} is missing; delete its state directory to start afresh")
        return blob


def _is_hex(name: str) -> bool:
    return len(name) == 64 and all(digit in "0123456789abcdef" for digit in name)
