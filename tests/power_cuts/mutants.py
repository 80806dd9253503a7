"""Recordings of processes that were less careful: as if some sync had been forgotten, or something said too early."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from fedprune.wire.messages import Accepted, Assignment, decode, encode
from tests.power_cuts.operations import ROOT, Link, Move, Operation, Sent, Started, Sync


def without_syncs(recording: Sequence[Operation], paths: str) -> list[Operation]:
    """Without any sync of a node that at the time had a path that `paths` matches; the root's path is empty."""
    mutant: list[Operation] = []
    for operation, path in with_paths(recording):
        if path is None or not re.fullmatch(paths, path):
            mutant.append(operation)
    assert len(mutant) < len(recording), f"nothing that matches {paths} was synced"
    return mutant


def without_syncs_at_start(recording: Sequence[Operation], path: str) -> list[Operation]:
    """Without the first sync of a node by each process."""
    mutant: list[Operation] = []
    is_due = True
    for operation, synced in with_paths(recording):
        is_due = is_due or isinstance(operation, Started)
        if is_due and synced == path:
            is_due = False
        else:
            mutant.append(operation)
    return mutant


def said_early(recording: Sequence[Operation], kind: str) -> list[Operation]:
    """With each message of a kind sent before the file was made that was made last before it."""
    mutant: list[Operation] = []
    for operation in recording:
        if isinstance(operation, Sent) and operation.topic.endswith(f"/{kind}"):
            place = max(index for index, before in enumerate(mutant) if isinstance(before, Link))
            mutant.insert(place, operation)
        else:
            mutant.append(operation)
    return mutant


def accepted_early(recording: Sequence[Operation]) -> list[Operation]:
    """With each acceptance, which the next work says, said by itself before the first of the round's files was made:
    updates that came together share one."""
    mutant: list[Operation] = []
    for operation in recording:
        mutant.append(operation)
        if isinstance(operation, Sent) and operation.topic.endswith("/a"):
            work = decode(Assignment, operation.payload)
            if work.accepted is not None:
                round_ = work.round - 1
                made = (at for at, it in enumerate(mutant) if isinstance(it, Link) and f"{round_:06d}-" in it.name)
                said = encode(Accepted(round=round_, update=work.accepted))
                mutant.insert(next(made), replace(operation, topic=operation.topic[:-1] + "y", payload=said))
    return mutant


def with_paths(recording: Sequence[Operation]) -> list[tuple[Operation, str | None]]:
    """Each operation, with the path of what it syncs."""
    paths = {ROOT: ""}
    found: list[tuple[Operation, str | None]] = []
    for operation in recording:
        match operation:
            case Link(_, parent, name, node):
                paths[node] = f"{paths[parent]}/{name}".lstrip("/")
            case Move(_, parent, _, name, node):
                paths[node] = f"{paths[parent]}/{name}".lstrip("/")
        found.append((operation, paths[operation.node] if isinstance(operation, Sync) else None))
    return found
