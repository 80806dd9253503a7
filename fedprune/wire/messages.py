"""The messages between agents and the aggregator: typed, versioned, size-checked before it is decoded.

Messages are MessagePack maps (`Presence` alone is JSON, for people). A reader accepts its own schema version alone, and
tolerates unknown fields. Who speaks is in the topic, never in the payload.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, TypeVar

import msgspec

from fedprune.errors import ProtocolError

SCHEMA_VERSION = 5
MAX_MESSAGE_BYTES = 120 * 1024
"""No message is longer; AWS IoT, the strictest broker we know of, takes 128 KB."""

CHUNK_BYTES = MAX_MESSAGE_BYTES - 256
"""Payload of a chunk of the largest size; what is left of a message holds the envelope."""

MAX_CONTENT_BYTES = 2**31 - 1

MAX_TALLIES_BYTES = 64 * 1024
"""The tallies of an evaluation, in a submit: those of all outputs together."""

MAX_HOLD_OUT = 0.5
"""The largest share of its examples that an agent may be told to hold out."""

Sha256 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Loss = Annotated[float, msgspec.Meta(ge=-3.5e38, le=3.5e38)]  # any float32, but no NaN or infinity
Magnitude = Annotated[float, msgspec.Meta(ge=0, le=3.5e38)]
Text = Annotated[str, msgspec.Meta(max_length=1000)]
Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
RunId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{0,64}\Z")]
Ticket = Annotated[bytes, msgspec.Meta(max_length=16)]
Version = Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=MAX_HOLD_OUT)]


class Content(msgspec.Struct, frozen=True):
    """A blob to be transferred, known by what it is: SHA-256 and size in bytes."""

    digest: Sha256
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_CONTENT_BYTES)]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages. `v` is the schema version."""

    v: int = SCHEMA_VERSION


class Manifest(Message, frozen=True, kw_only=True):
    """Retained on the round topic: what the federation is doing. `round` counts from 0; `done` ends it.

    `incarnation` counts the aggregator's starts: when it changes, agents check in again.
    """

    run: Id
    incarnation: Count
    round: Count
    rounds: Count
    task: Content
    model: Content
    done: bool = False


class CheckIn(Message, frozen=True, kw_only=True):
    """An agent offers itself; answered by `Assignment` or `Rejected`.

    `examples`: how many it holds; no update of its next round weighs more. `ticket`: what the last `Rejected` gave,
    which shows that answers reach the agent. `version`: the model of `run` that it holds, -1 for none; it holds one
    only once the digest of its weights was right. `wants_whole`: what it held led elsewhere, so that it must be sent
    the whole model.
    """

    examples: Count
    trainer: Text = ""
    ticket: Ticket = b""
    run: RunId = ""
    version: Version = -1
    wants_whole: bool = False


class LeftOut(msgspec.Struct, frozen=True):
    """An agent's update of `round` that was accepted, and then left out of the merge."""

    round: Count
    why: Text


class Assignment(Message, frozen=True, kw_only=True):
    """One round's work for one agent.

    `weights_digest` is that of the decoded model (`fedprune.model.tensors.weights_digest`). `schedule_step` is the
    number of global steps before this round. `seed` keys the agent's randomness. `codec` describes that of its update.
    `seconds_left` until the deadline. `left_out`: the agent's last update in `run` that was left out, if any; what that
    round left is to be dropped. `hold_out`: the share of its examples that the agent evaluates the model on and does
    not train on.

    `model` is the whole model where `base` is -1, else a replay that leads to it from version `base`; None if the agent
    needs none, since `base` is the round's own version. Version 0 of a task with a random start follows from the task.
    `model_codec` describes how models travel, empty where `base` is -1.
    """

    run: Id
    round: Count
    task: Content
    model: Content | None
    weights_digest: Sha256
    schedule_step: Count
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    codec: Text
    seconds_left: Seconds
    left_out: LeftOut | None = None
    hold_out: Share = 0.0
    base: Version = -1
    model_codec: Text = ""


class Need(Message, frozen=True, kw_only=True):
    """The chunks that the sender lacks and asks for now, of a content that is cut into chunks of `chunk_bytes`: bit i
    (least significant first) is chunk i. `even_if_sent`: also
    those that were broadcast just now, since they are not on their way to the sender."""

    digest: Sha256
    missing: bytes
    chunk_bytes: Count = CHUNK_BYTES
    even_if_sent: bool = False


class Chunk(Message, frozen=True, kw_only=True):
    """Chunk `index` of a content that is cut into chunks of `chunk_bytes`."""

    digest: Sha256
    index: Count
    data: bytes
    chunk_bytes: Count = CHUNK_BYTES


class Evaluated(msgspec.Struct, frozen=True):
    """An agent's evaluation of the round's model, before it trained, on the `examples` that it holds out.

    `loss` is their mean loss, None where it is not finite. `tallies` are the task's metrics
    (`fedprune.task.tallies`), empty without a loss.
    """

    examples: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    loss: Loss | None = None
    tallies: Annotated[bytes, msgspec.Meta(max_length=MAX_TALLIES_BYTES)] = b""


class Submit(Message, frozen=True, kw_only=True):
    """An agent's update is ready; answered by `Accepted`, `Rejected` or `Need`. Also asks the book about it.

    `examples` weighs the update, which is of `local_steps` optimizer steps. `loss` is the mean training loss,
    `train_seconds` wall time spent training, `idle_memory_mb` and `peak_memory_mb` the process's high-water marks
    before its first assignment and now.
    `x_mean` and `x_largest` are the mean and the largest magnitude of the examples' inputs, as they are trained on.
    `evaluated`: on the examples that the agent holds out, if it does.
    """

    run: Id
    round: Count
    update: Content
    examples: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    local_steps: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    loss: Loss = 0.0
    train_seconds: Seconds = 0.0
    idle_memory_mb: Seconds = 0.0
    peak_memory_mb: Seconds = 0.0
    x_mean: Loss = 0.0
    x_largest: Magnitude = 0.0
    evaluated: Evaluated | None = None


class Accepted(Message, frozen=True, kw_only=True):
    """The update is durable on the gateway and counts, once, unless the merge does without it (`LeftOut`)."""

    run: Id
    round: Count
    digest: Sha256


class Reason(StrEnum):
    """Why a check-in or an update was rejected, and so what becomes of the update."""

    NOT_SELECTED = "not-selected"
    """No work for this check-in now: check in again after `retry_after`."""
    FINISHED = "finished"
    """The federation is done."""
    LATE = "late"
    """The round was merged without this update: fold it into the residual."""
    INVALID = "invalid"
    """The update is malformed, or not ours: discard it."""
    UNREADABLE = "unreadable"
    """The message could not be read, for the reason in `detail`: the two sides run different versions."""


class Rejected(Message, frozen=True, kw_only=True):
    """The answer no. `digest` names the update it is about; without one it answers a check-in, or whatever was
    unreadable. An agent that trains stops when its check-in is answered so: the round does without it.

    `ticket`, if there is one, is for the agent's next check-in, which it sends at once.
    """

    reason: Reason
    detail: Text = ""
    retry_after: Seconds = 10.0
    digest: Sha256 | None = None
    ticket: Ticket = b""


class Failed(Message, frozen=True, kw_only=True):
    """An agent cannot do the round it was assigned: the aggregator need not wait for it."""

    run: Id
    round: Count
    why: Text


class Presence(msgspec.Struct, frozen=True):
    """Retained JSON on the status topic, for people; the last will says offline."""

    state: str
    agent: str
    version: str = ""


UPLINK: dict[str, type[Message]] = {
    "check-in": CheckIn,
    "need": Need,
    "submit": Submit,
    "chunk": Chunk,
    "failed": Failed,
}
DOWNLINK: dict[str, type[Message]] = {
    "assignment": Assignment,
    "need": Need,
    "accepted": Accepted,
    "rejected": Rejected,
    "chunk": Chunk,
}

_KINDS = {kind_type: kind for kind, kind_type in (UPLINK | DOWNLINK).items()}
_M = TypeVar("_M", bound=Message)


def kind_of(message: Message) -> str:
    """The last topic level under which `message` travels."""
    return _KINDS[type(message)]


def encode(message: Message) -> bytes:
    """The message's bytes. A message over `MAX_MESSAGE_BYTES` is our own bug and asserts."""
    payload = msgspec.msgpack.encode(message)
    assert len(payload) <= MAX_MESSAGE_BYTES, f"{type(message).__name__} of {len(payload)} bytes"
    return payload


def decode(kind: type[_M], payload: bytes) -> _M:
    """Decode foreign bytes. Raises `ProtocolError` if they are too long, malformed or of another version."""
    if len(payload) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"{kind.__name__}: {len(payload)} bytes, at most {MAX_MESSAGE_BYTES} are allowed")
    try:
        message: Any = msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"{kind.__name__}: {error}") from error
    if message.v != SCHEMA_VERSION:
        raise ProtocolError(f"{kind.__name__}: schema version {message.v}, this side speaks {SCHEMA_VERSION}; upgrade")
    return message  # type: ignore[no-any-return]
