"""A device after a power cut: its agent starts, and what it submitted is there until it is answered."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from edge_agent.agent_state import Train
from edge_agent.runner import AgentRunner
from edge_agent.store import AgentStore
from fedprune.system.disk import Directory
from fedprune.system.ownership import owned
from fedprune.task.bundle import read_bundle
from fedprune.wire.messages import CheckIn, Content, Submit, decode, encode
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import content_of
from fedprune.wire.unsaid import Steady, steady, whole_submit
from tests.drivers import LIMITS
from tests.federations import NAME
from tests.power_cuts.operations import Move, Operation, Sent, Write
from tests.recorder import Recorder

TOPICS = Topics(NAME)
_RECORD = "agent.json"
_BLOB = re.compile(rb"([0-9a-f]{32})\.(?:update|safetensors|residuals)")


@dataclass(frozen=True)
class Submitted:
    """What an agent has submitted last."""

    last: Submit | None = None

    def and_then(self, sent: Sent) -> Submitted:
        if not sent.topic.endswith("/s"):
            return self
        submit = decode(Submit, sent.payload)
        content = submit.update if isinstance(submit.update, Content) else content_of(submit.update)
        told = Steady() if self.last is None else steady(self.last)
        whole = whole_submit(submit, submit.run, told)
        return replace(self, last=msgspec.structs.replace(whole, update=content))


class DeviceCheck:
    """Starts an agent in a state directory, and asserts that it remembers what it has submitted, and nothing else than
    what it once wrote: then no update can be made twice, nor a residual of what became of another one be added."""

    def __init__(self, name: str, recording: list[Operation]) -> None:
        self._name = name
        self._records = _versions(recording, _RECORD)
        self._readable: set[bytes] = set()
        """Bundles that were read."""

    def __call__(self, state: Path, submitted: Submitted) -> None:
        with owned(state) as disk:
            self._check_record(disk)
            store = AgentStore(disk, self._name, NAME)
            last = submitted.last
            if last is not None:
                is_settled = store.done.of(last.run) >= last.round
                pending = store.pending
                is_pending = pending is not None and decode(Submit, encode(pending)) == last
                assert is_settled or is_pending, "what was submitted is forgotten"
            for digest in store.tasks():
                self._check_task(store.task(digest))
            self._check_start(store)

    def _check_record(self, disk: Directory) -> None:
        record = disk.read(_RECORD)
        assert record is None or record in self._records, "the record is none that the agent has written"
        for match in _BLOB.finditer(record or b""):
            blob = disk.read(match[0].decode())
            assert blob is not None, f"{match[0].decode()} is in the record, but nowhere else"
            assert hashlib.sha256(blob).hexdigest().startswith(match[1].decode()), f"{match[0].decode()} is damaged"

    def _check_task(self, blob: bytes) -> None:
        if blob not in self._readable:
            read_bundle(blob)
            self._readable.add(blob)

    def _check_start(self, store: AgentStore) -> None:
        """It submits what is pending, or offers itself."""
        link, check_in = Recorder(), CheckIn(examples=24, trainer="litert")
        runner = AgentRunner(self._name, check_in, LIMITS, TOPICS, link, store, _never, _never)
        runner.connect(0.0)
        pending = store.pending
        if pending is None:
            assert link.on(TOPICS.up(self._name, "check-in")), "it does not offer itself"
        else:
            submits = [decode(Submit, payload) for payload in link.on(TOPICS.up(self._name, "submit"))]
            assert submits == [decode(Submit, encode(pending))], "it does not submit what is pending"
            assert hashlib.sha256(store.update()).digest() == pending.update.digest


def _never(_: Train | None = None) -> None:
    raise AssertionError("no training can begin or end here")


def _versions(recording: list[Operation], name: str) -> set[bytes]:
    """All contents that a file was given, by a rename of what was written whole."""
    written: dict[int, bytes] = {}
    versions: set[bytes] = set()
    for operation in recording:
        match operation:
            case Write(_, node, offset, data):
                written[node] = written.get(node, b"")[:offset] + data
            case Move(_, _, _, new_name, node) if new_name == name:
                versions.add(written[node])
    return versions
