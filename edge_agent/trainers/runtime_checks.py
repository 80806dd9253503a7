"""Self-checks that a runtime has passed, remembered on disk so that each is made once."""

from __future__ import annotations

import hashlib

import msgspec

from fedprune.runtime.self_check import run_self_check
from fedprune.runtime.training_graph import TrainingGraph
from fedprune.system.disk import Disk
from fedprune.task.bundle import Bundle

_RECORD = "self-check.json"


class _Passed(msgspec.Struct, frozen=True):
    """`graph` is the SHA-256 (hex) of the training graph and its self-check."""

    graph: str
    runtime: str
    version: str


def check_runtime(bundle: Bundle, graph: TrainingGraph, disk: Disk | None) -> None:
    """Run the self-check unless it has passed.

    `disk` remembers the last one that passed: a device serves one federation at a time. Without a disk each check is
    made. Raises what `run_self_check` does, `StorageError` if the disk refuses.
    """
    assert bundle.training_graph is not None
    assert bundle.self_check is not None
    digest = hashlib.sha256(bundle.training_graph + msgspec.json.encode(bundle.self_check)).hexdigest()
    passed = _Passed(digest, graph.runtime.name, graph.runtime.version)
    if disk is None or _remembered(disk) != passed:
        run_self_check(graph, bundle.task.tensors, bundle.self_check)
        if disk is not None:
            disk.write(_RECORD, msgspec.json.encode(passed))


def _remembered(disk: Disk) -> _Passed | None:
    """None if there is nothing that can be read: then it is checked again."""
    try:
        return msgspec.json.decode(disk.read(_RECORD) or b"", type=_Passed)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
