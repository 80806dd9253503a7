"""The model that an agent holds: the last one that it decoded. So a later one costs a delta, and a restart nothing.

One blob on the disk, replaced whole: a line of JSON that says what it is, then the model's bytes. It is kept once the
digest of its weights was right, and beside the agent's record: losing it costs a download and nothing else.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from fedprune.errors import ProtocolError
from fedprune.system.disk import Disk

NONE_HELD = ("", -1)
"""Run and version where no model is held."""

_log = logging.getLogger(__name__)

_FORMAT = 1
_NAME = "held.model"


class _Header(msgspec.Struct, frozen=True):
    """The run and the version, and the SHA-256 of the model's bytes."""

    format: int
    run: str
    version: int
    sha256: str


class UnusableBase(ProtocolError):
    """What the agent holds does not lead to the round's model. It is forgotten: the whole model has to be fetched."""


class Held(Protocol):
    """What an agent holds: a `HeldModel`, or nothing."""

    def read(self, run: str) -> tuple[int, bytes] | None: ...

    def keep(self, run: str, version: int, blob: bytes) -> None: ...

    def forget(self) -> None: ...


class HoldsNothing:
    """Stands for what an agent holds where nothing is to be kept."""

    def read(self, run: str) -> tuple[int, bytes] | None:  # noqa: ARG002
        return None

    def keep(self, run: str, version: int, blob: bytes) -> None: ...

    def forget(self) -> None: ...


def _tell_nobody(_: tuple[str, int]) -> None: ...


class HeldModel:
    """What an agent holds on its disk. Every method raises `StorageError` if the disk refuses.

    `tell` is called with run and version, `NONE_HELD` for none, as soon as the disk holds another model or none.
    """

    def __init__(self, disk: Disk, tell: Callable[[tuple[str, int]], None] = _tell_nobody) -> None:
        self._disk = disk
        self._tell = tell

    def telling(self, tell: Callable[[tuple[str, int]], None]) -> HeldModel:
        """The same, which calls `tell`, on the thread that keeps the model."""
        return HeldModel(self._disk, tell)

    @property
    def version(self) -> tuple[str, int]:
        """Run and version of the model that is held, `NONE_HELD` for none. One that is damaged is forgotten."""
        header, _ = self._read()
        return NONE_HELD if header is None else (header.run, header.version)

    def read(self, run: str) -> tuple[int, bytes] | None:
        """Version and bytes of that run's model; None if none is held."""
        header, blob = self._read()
        return (header.version, blob) if header is not None and header.run == run else None

    def keep(self, run: str, version: int, blob: bytes) -> None:
        """Hold a model, durably, in the place of the one before."""
        header = _Header(_FORMAT, run, version, hashlib.sha256(blob).hexdigest())
        self._disk.write(_NAME, msgspec.json.encode(header) + b"\n" + blob)
        self._tell((run, version))

    def forget(self) -> None:
        self._disk.delete(_NAME)
        self._tell(NONE_HELD)

    def _read(self) -> tuple[_Header | None, bytes]:
        stored = self._disk.read(_NAME)
        if stored is None:
            return None, b""
        line, _, blob = stored.partition(b"\n")
        try:
            header = msgspec.json.decode(line, type=_Header)
        except (msgspec.DecodeError, UnicodeDecodeError):
            header = None
        if header is None or header.format != _FORMAT or header.sha256 != hashlib.sha256(blob).hexdigest():
            _log.warning("%s is damaged, or of another version; the model is fetched again", _NAME)
            self.forget()
            return None, b""
        return header, blob
