"""One message of each kind, fixed, and the small values that they are made of."""

from __future__ import annotations

import hashlib

import msgspec

from fedprune.wire.messages import (
    PROVEN_DIGEST_BYTES,
    WEIGHTS_DIGEST_BYTES,
    Accepted,
    Assignment,
    Begun,
    CheckIn,
    Chunk,
    Content,
    Evaluated,
    Failed,
    LeftOut,
    Manifest,
    Message,
    Need,
    Reason,
    Rejected,
    Submit,
    Terms,
    tag_of,
)
from fedprune.wire.transfer import CHUNK_SIZES, chunk_count, chunk_of, content_of

RUN = "abcd"
TASK_BLOB = b"task" * 10
MODEL_BLOB = b"model of round 0"
UPDATE_BLOB = bytes(range(256)) * 1000
"""Three chunks."""

TASK, MODEL, UPDATE = content_of(TASK_BLOB), content_of(MODEL_BLOB), content_of(UPDATE_BLOB)


def digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


TERMS = Terms(task=TASK, seed=7, clock_steps=100, codec="mask | feedback(2) | int8")


def assignment(
    round_: int = 0,
    *,
    run: str = RUN,
    incarnation: int = 1,
    model: Content | None = MODEL,
    terms: Terms | None = TERMS,
) -> Assignment:
    return Assignment(
        run=run,
        incarnation=incarnation,
        round=round_,
        weights_digest=digest("weights")[:WEIGHTS_DIGEST_BYTES],
        seconds_left=60,
        model=model,
        terms=terms,
    )


def changed(work: Assignment, **changes: object) -> Assignment:
    """Other work: `changes` of the assignment or of its terms. A digest of weights may be given whole."""
    terms = {name: value for name, value in changes.items() if name in Terms.__struct_fields__}
    own = {name: value for name, value in changes.items() if name not in terms}
    if isinstance(whole := own.get("weights_digest"), bytes):
        own["weights_digest"] = whole[:WEIGHTS_DIGEST_BYTES]
    return msgspec.structs.replace(work, terms=msgspec.structs.replace(work.known, **terms), **own)


def manifest(round_: int = 0, *, run: str = RUN, incarnation: int = 1, done: bool = False) -> Manifest:
    return Manifest(run=run, incarnation=incarnation, round=round_, done=done)


def accepted(round_: int = 0, update: Content = UPDATE) -> Accepted:
    return Accepted(round=round_, update=tag_of(update.digest))


def submit(round_: int = 0, *, run: str = RUN, update: Content = UPDATE, examples: int = 1500) -> Submit:
    return Submit(
        run=run,
        round=round_,
        update=update,
        examples=examples,
        local_steps=47,
        loss=0.25,
        train_hundredths=150,
        idle_memory_mb=40,
        peak_memory_mb=600,
        x_mean=0.5,
        x_largest=1.0,
    )


EVALUATED = Evaluated(examples=300, loss=0.5, tallies=b"\x91\x94\x00\xcc\xf0\x00\xcd\x01\x2c")
"""240 of 300 right."""


def chunks(blob: bytes, chunk_bytes: int = CHUNK_SIZES[0]) -> list[Chunk]:
    """All of a blob's chunks of that size, in order."""
    content, count = content_of(blob), chunk_count(len(blob), chunk_bytes)
    return [chunk_of(blob, content.digest, index, chunk_bytes) for index in range(count)]


MESSAGES: dict[str, Message] = {
    "manifest": manifest(round_=3),
    "manifest that is signed": msgspec.structs.replace(
        manifest(round_=3), epoch=1, weights_digest=digest("weights")[:PROVEN_DIGEST_BYTES], signature=bytes(range(64))
    ),
    "check-in": CheckIn(examples=1500, trainer="keras", ticket=b"12345678", run=RUN, version=2, terms=1),
    "assignment": assignment(round_=3, terms=None),
    "assignment with its terms": assignment(round_=3),
    "assignment with its terms and who signs": assignment(
        round_=3, terms=msgspec.structs.replace(TERMS, statement=bytes(range(103)))
    ),
    "assignment after an update was left out": msgspec.structs.replace(
        assignment(round_=3, terms=None), left_out=LeftOut(round=2, why="its delta's norm is 1e+04")
    ),
    "assignment that wants an evaluation": assignment(
        round_=3, terms=msgspec.structs.replace(TERMS, hold_out=0.25, model_codec="fp16 + mask | topk(0.01) | ternary")
    ),
    "assignment of a model that the agent holds": msgspec.structs.replace(
        assignment(round_=3, terms=None), model=None, base=3
    ),
    "check-in that asks for the whole model": CheckIn(examples=1500, trainer="keras", wants_whole=True),
    "assignment that brings the model": msgspec.structs.replace(assignment(round_=3, terms=None), model=b"model"),
    "submit that brings the update": msgspec.structs.replace(submit(round_=3), update=b"update"),
    "begun": Begun(round=3),
    "need": Need(digest=MODEL.digest, missing=b"\x05\x80"),
    "chunk": Chunk(digest=MODEL.digest, index=2, data=b"\x00\x01\xff"),
    "submit": submit(round_=3),
    "submit with an evaluation": msgspec.structs.replace(submit(round_=3), evaluated=EVALUATED),
    "accepted": accepted(round_=3),
    "rejected check-in": Rejected(reason=Reason.NOT_SELECTED, retry_after=30.0),
    "rejected with a ticket": Rejected(reason=Reason.NOT_SELECTED, retry_after=30.0, ticket=b"12345678"),
    "rejected where manifests are signed": Rejected(
        reason=Reason.NOT_SELECTED, retry_after=30.0, epoch=1, incarnation=4, round=3
    ),
    "rejected update": Rejected(reason=Reason.LATE, detail="round 3 is over", digest=UPDATE.digest),
    "failed": Failed(run=RUN, round=3, why="out of memory"),
}
