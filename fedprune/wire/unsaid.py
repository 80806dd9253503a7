"""What messages leave unsaid, since the other side knows it.

Where manifests are signed, an assignment need not repeat its round's manifest, nor a submit the run: the message's code
covers them as its *context* (`fedprune.wire.authentication`). So the message counts with that manifest, or in that run,
and no other. Without codes both are said.

A submit need not repeat what the last one said of its process and inputs, which is the same in most rounds. A 0 there
means: as before.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from fedprune.errors import ProtocolError
from fedprune.wire.messages import WEIGHTS_DIGEST_BYTES, Assignment, Manifest, Submit


class Steady(NamedTuple):
    """The fields of a submit that are the same in most rounds."""

    idle_memory_mb: int = 0
    peak_memory_mb: int = 0
    x_mean: float = 0.0
    x_largest: float = 0.0


def manifest_context(manifest: Manifest) -> bytes:
    """The context of an assignment that leaves unsaid what the manifest says."""
    return msgspec.msgpack.encode((manifest.run, manifest.incarnation, manifest.round, manifest.weights_digest))


def run_context(run: str) -> bytes:
    """The context of a submit that leaves its run unsaid."""
    return msgspec.msgpack.encode((run,))


def is_said_by(manifest: Manifest, assignment: Assignment) -> bool:
    """True if a manifest, which says the model too, is that of an assignment to an agent that knows the terms."""
    of_manifest = manifest.run, manifest.incarnation, manifest.round
    return (
        assignment.terms is None
        and (assignment.run, assignment.incarnation, assignment.round) == of_manifest
        and manifest.weights_digest.startswith(assignment.weights_digest)
    )


def brief_assignment(assignment: Assignment) -> Assignment:
    """The assignment without what its manifest says."""
    return msgspec.structs.replace(assignment, run="", incarnation=0, round=0, weights_digest=b"")


def whole_assignment(assignment: Assignment, manifest: Manifest | None) -> Assignment:
    """The assignment that was said in a manifest's context, or in none.

    Raises `ProtocolError` if it says too little.
    """
    if manifest is not None:
        return msgspec.structs.replace(
            assignment,
            run=manifest.run,
            incarnation=manifest.incarnation,
            round=manifest.round,
            weights_digest=manifest.weights_digest[:WEIGHTS_DIGEST_BYTES],
        )
    if not assignment.run or len(assignment.weights_digest) != WEIGHTS_DIGEST_BYTES:
        raise ProtocolError("Assignment: it does not say of which run and model it is")
    return assignment


def steady(submit: Submit) -> Steady:
    """What a submit says of its process and inputs."""
    return Steady(*(getattr(submit, name) for name in Steady._fields))


def brief_submit(submit: Submit, told: Steady) -> Submit:
    """The submit without what was told before."""
    same = [name for name in Steady._fields if getattr(submit, name) == getattr(told, name)]
    return msgspec.structs.replace(submit, **{name: getattr(Steady(), name) for name in same})


def whole_submit(submit: Submit, run: str, told: Steady) -> Submit:
    """The submit, of a run, with what was told before. Raises `ProtocolError` if nothing says the run."""
    if not run:
        raise ProtocolError("Submit: it does not say of which run it is")
    before = {name: getattr(told, name) for name in Steady._fields if not getattr(submit, name)}
    return msgspec.structs.replace(submit, run=run, **before)
