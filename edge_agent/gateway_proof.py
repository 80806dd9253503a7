"""The proof that a device which has joined has of its gateway: by whose signature, and how far it has got.

A manifest counts if the key has signed it that the root key names (`fedprune.wire.proof`), and if it is no older than
what was seen: in the same epoch, a later start of an aggregator, or a later round. An assignment counts if it is of the
manifest's round, and of its model. So old messages cannot be sent again, and the model's digest is known to be the
gateway's before a file of the network is opened.

A manifest's signature is also about the run's terms, which come with the first assignment. Until they are known a
manifest is kept unproven, as an assignment is that comes before its manifest: one of each, the last. Then the agent
asks, and what it is told brings them. Reads and writes one small file; nothing else is I/O.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from edge_agent.history import RoundsDone
from fedprune.errors import ProtocolError, StorageError
from fedprune.system.disk import Disk
from fedprune.system.log import LimitedLog
from fedprune.wire.messages import Assignment, Manifest, Message, Rejected, Terms
from fedprune.wire.proof import Statement, is_proven, proven_statement

_log = logging.getLogger(__name__)

MOST_WRONG = 16
"""Wrong signatures in `WRONG_WINDOW_S`, before further manifests are not looked at. One takes a desktop processor 2 ms,
and a small Pi many times as long."""

WRONG_WINDOW_S = 60.0

ROUNDS_UNWRITTEN = 16
"""Rounds that are seen before the last of them is written to the disk, which wears. After a restart a device could be
shown one of these again, but none that it has done."""

_FILE = "gateway-proof.json"
_FORMAT = 1


class Outdated(ProtocolError):
    """What the gateway says is older than what this device has seen of it."""


class Position(NamedTuple):
    """How far a gateway has got: a later one is larger."""

    epoch: int = 0
    incarnation: int = 0
    round: int = -1

    def __str__(self) -> str:
        return f"epoch {self.epoch}, start {self.incarnation}, round {self.round + 1}"


class _Record(msgspec.Struct, frozen=True):
    """The file. The statement is the root key's; the rest is of the last manifest that was written down."""

    format: int
    statement: bytes
    incarnation: int = 0
    round: int = -1
    run: str = ""


class GatewayProof:
    """Judges what comes from the gateway of a federation, by the public half of its root key.

    `done` are the rounds that the device has done. Raises `StorageError` if the file cannot be read or written.
    """

    def __init__(self, federation: str, root: bytes, disk: Disk, done: RoundsDone) -> None:
        self.root = root
        self.waits_for = ""
        """Why what the gateway says does not count, as far as its owner can mend it; empty if it does."""
        self.asks = False
        """Something is kept that only an answer of the gateway's can prove."""
        self._federation, self._disk = federation, disk
        self._wrong = _WrongSignatures()
        self._log = LimitedLog(_log)
        self._signer: Statement | None = None
        self._terms: Terms | None = None
        self._terms_of = ("", 0)
        self._proven: Manifest | None = None
        self._proven_terms: Terms | None = None
        self._unproven: Manifest | None = None
        self._kept: Assignment | None = None
        self._written = self._read()
        self._seen = Position()
        if self._signer is not None:
            last = max(self._written.round, done.of(self._written.run))
            self._seen = Position(self._signer.epoch, self._written.incarnation, last)

    def admit(self, message: Message, now: float) -> Iterator[Message]:
        """The messages that count by now, of which `message` may be one. `now` is monotonic seconds.

        Raises `ProtocolError` if it will never count, `Outdated` if an assignment is too old.
        """
        self.asks = False
        match message:
            case Manifest():
                yield from self._admit_manifest(message, now)
            case Assignment():
                yield from self._admit_assignment(message, now)
            case Rejected(ticket=b"") if (at := _position(message)) < self._seen:
                raise ProtocolError(f"it was said at {at}, and this device has seen {self._seen}: it is sent again")
            case _:
                yield message

    def _admit_manifest(self, manifest: Manifest, now: float) -> Iterator[Message]:
        at = _position(manifest)
        if manifest == self._proven:
            yield manifest
            return
        if not manifest.signature:
            raise ProtocolError("it is not signed, and this device obeys a root key (`root_key` in agent.toml)")
        if at < self._seen:
            raise ProtocolError(self._behind(at))
        if self._terms is None or self._signer is None or manifest.epoch > self._signer.epoch:
            self._keep_unproven(manifest)
            return
        self._wrong.check(now)
        if is_proven(self._federation, manifest, self._terms, self._signer.key):
            yield from self._prove(manifest)
            return
        self._wrong.count(now)
        if (manifest.run, manifest.incarnation) == self._terms_of:
            raise ProtocolError("its signature is not the gateway's")
        self._keep_unproven(manifest)

    def _keep_unproven(self, manifest: Manifest) -> None:
        """It may be of a run with other terms, or of another epoch: the next assignment tells."""
        self._unproven, self.asks = manifest, True
        self._log.log(
            logging.INFO,
            "the manifest of %s cannot be proven yet: asking for what it is signed by",
            _position(manifest),
        )

    def _prove(self, manifest: Manifest) -> Iterator[Message]:
        """It counts from now on, and so does the assignment that waited for it, which says more and so comes first."""
        self._proven, self._unproven, self.waits_for = manifest, None, ""
        self._proven_terms = self._terms
        self._seen = _position(manifest)
        self._write(manifest)
        kept, self._kept = self._kept, None
        if kept is not None and _at(kept) == _at(manifest):
            yield self._agreeing(kept, manifest)
        elif kept is not None and _order(kept) > _order(manifest):
            self._kept = kept
        yield manifest

    def _admit_assignment(self, assignment: Assignment, now: float) -> Iterator[Message]:
        if assignment.terms is not None:
            self._learn(assignment, assignment.terms)
        unproven, self._unproven = self._unproven, None
        if unproven is not None:
            self._kept = assignment
            try:
                yield from self._admit_manifest(unproven, now)
            except ProtocolError as error:
                self._log.log(logging.WARNING, "ignored a manifest that was kept: %s", error)
            if self._kept is not assignment:  # it was let pass, or is older
                return
        proven = self._proven
        if proven is not None and _at(assignment) == _at(proven):
            self._kept = None
            yield self._agreeing(assignment, proven)
        elif _order(assignment) < (self._seen.incarnation, self._seen.round):
            self._kept = None
            raise Outdated(self._behind(Position(self._seen.epoch, *_order(assignment))))
        else:
            self.asks = self.asks or self._kept == assignment  # it came before, and its manifest did not
            self._kept = assignment

    def _learn(self, assignment: Assignment, terms: Terms) -> None:
        """Take terms, and the root key's word on who signs. A manifest that is proven has proven those of its run; of
        an earlier start none are taken, since what is proven by them would not be proven any more."""
        proven = self._proven
        if proven is not None and _at(assignment)[:2] == _at(proven)[:2] and terms != self._proven_terms:
            raise ProtocolError("its terms, or its task, are not those that the gateway has signed for this run")
        if self._signer is None or terms.statement != self._written.statement:
            statement = proven_statement(self._federation, self.root, terms.statement)
            present = 0 if self._signer is None else self._signer.epoch
            if statement.epoch <= present:
                raise Outdated(self._behind(Position(statement.epoch, *_order(assignment))))
            _log.info("the gateway is in epoch %s, by its root key", statement.epoch)
            self._signer, self._seen, self._proven = statement, Position(statement.epoch), None
            self._written = _Record(_FORMAT, terms.statement)
            self._disk.write(_FILE, msgspec.json.encode(self._written))
        elif assignment.incarnation < self._seen.incarnation:
            raise Outdated(self._behind(Position(self._seen.epoch, *_order(assignment))))
        self._terms, self._terms_of = terms, (assignment.run, assignment.incarnation)

    def _agreeing(self, assignment: Assignment, manifest: Manifest) -> Assignment:
        """The assignment, with the model's digest as the manifest has it, which is longer."""
        if not manifest.weights_digest.startswith(assignment.weights_digest):
            raise ProtocolError("its model is not the one of the round's manifest")
        return msgspec.structs.replace(assignment, weights_digest=manifest.weights_digest)

    def _behind(self, at: Position) -> str:
        self.waits_for = (
            f"the gateway says {at}, and this device has seen {self._seen}: if it was restored from a backup, "
            "`fedprune gateway epoch ROOTKEY` there opens a new epoch; else somebody sends old messages again"
        )
        return self.waits_for

    def _write(self, manifest: Manifest) -> None:
        former = self._written
        is_same_start = (former.run, former.incarnation) == (manifest.run, manifest.incarnation)
        if is_same_start and manifest.round < former.round + ROUNDS_UNWRITTEN:
            return
        self._written = msgspec.structs.replace(
            former, incarnation=manifest.incarnation, round=manifest.round, run=manifest.run
        )
        self._disk.write(_FILE, msgspec.json.encode(self._written))

    def _read(self) -> _Record:
        """What was written, if it is of this root key; a device that has joined another gateway begins anew."""
        blob = self._disk.read(_FILE)
        if blob is None:
            return _Record(_FORMAT, b"")
        try:
            record = msgspec.json.decode(blob, type=_Record)
            if record.format != _FORMAT:
                raise ValueError(f"format {record.format}")
        except ValueError as error:
            raise StorageError(
                f"the agent's {_FILE}: {error}; delete it to have this device begin anew with its gateway"
            ) from error
        try:
            self._signer = proven_statement(self._federation, self.root, record.statement)
        except ProtocolError:
            return _Record(_FORMAT, b"")
        return record


class _WrongSignatures:
    """Counts wrong signatures within a window of time."""

    def __init__(self) -> None:
        self._began, self._count = 0.0, 0

    def check(self, now: float) -> None:
        """Raises `ProtocolError` if there were too many."""
        if self._count >= MOST_WRONG and now - self._began < WRONG_WINDOW_S:
            raise ProtocolError(f"{MOST_WRONG} manifests had wrong signatures: it is not looked at for a minute")

    def count(self, now: float) -> None:
        if now - self._began >= WRONG_WINDOW_S:
            self._began, self._count = now, 0
        self._count += 1


def _position(message: Manifest | Rejected) -> Position:
    return Position(message.epoch, message.incarnation, message.round)


def _at(message: Manifest | Assignment) -> tuple[str, int, int]:
    return message.run, message.incarnation, message.round


def _order(message: Manifest | Assignment) -> tuple[int, int]:
    return message.incarnation, message.round
