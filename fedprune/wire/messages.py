"""The messages between agents and the aggregator: typed, versioned, size-checked before it is decoded.

Messages are MessagePack arrays, field by field in the order below, so that no name travels (`Presence` alone is JSON,
for people). A reader accepts the versions that it speaks, and tolerates fields behind those that it knows; trailing
ones that have their defaults are not sent. Who speaks is in the topic, never in the payload. What stays the same in all
rounds (`Terms`) is said once.

By a `Greeting` two sides learn which versions both speak. It is read in every version, so the fields that it has stay
as they are for ever; so is what refuses or is broadcast (`_LASTING`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, TypeVar

import msgspec

from fedprune.errors import ProtocolError
from fedprune.wire.examples import Submitted
from fedprune.wire.positional import pack
from fedprune.wire.versions import SPOKEN, Versions

MAX_MESSAGE_BYTES = 120 * 1024
"""No message is longer; AWS IoT, the strictest broker we know of, takes 128 KB."""

CHUNK_BYTES = MAX_MESSAGE_BYTES - 256
"""Payload of a chunk of the largest size; what is left of a message holds the envelope."""

MAX_CONTENT_BYTES = 2**31 - 1
MAX_INLINE_BYTES = 16 * 1024
"""The largest content that travels inside the message that names it, which saves asking for it. Where that does not
come, since the broker takes no message so large, the content is named once more and then sent in chunks."""

MAX_TALLIES_BYTES = 64 * 1024
"""The tallies of an evaluation, in a submit: those of all outputs together. A sub-gateway's are in its partial sum."""

MAX_HOLD_OUT = 0.5
"""The largest share of its examples that an agent may be told to hold out."""

WEIGHTS_DIGEST_BYTES = 4
"""The beginning of a model's `weights_digest` that an assignment says: it finds where two sides compute differently.
That nobody changed what leads to the model follows from the content's whole digest, and from the message's code."""

UPDATE_TAG_BYTES = 4
"""The beginning of an update's digest that an acceptance names: an agent has one update alone that may be meant."""

_LARGEST = float.fromhex("0x1.fffffep+127")
"""The largest float32."""

Sha256 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
WeightsDigest = Annotated[bytes, msgspec.Meta(max_length=WEIGHTS_DIGEST_BYTES)]
UpdateTag = Annotated[bytes, msgspec.Meta(min_length=UPDATE_TAG_BYTES, max_length=UPDATE_TAG_BYTES)]
PROVEN_DIGEST_BYTES = 8
"""The beginning of a model's `weights_digest` that a signed manifest says: see docs/SECURITY.md on its length."""

MAX_STATEMENT_BYTES = 128
"""A root key's statement (`fedprune.wire.proof`)."""

Inline = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_INLINE_BYTES)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Loss = Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]  # any float32, but no NaN or infinity
Magnitude = Annotated[float, msgspec.Meta(ge=0, le=_LARGEST)]
ProvenDigest = Annotated[bytes, msgspec.Meta(max_length=PROVEN_DIGEST_BYTES)]
Signature = Annotated[bytes, msgspec.Meta(max_length=64)]
Text = Annotated[str, msgspec.Meta(max_length=1000)]
Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
RunId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{0,64}\Z")]
Ticket = Annotated[bytes, msgspec.Meta(max_length=16)]
Version = Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=MAX_HOLD_OUT)]


class Content(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A blob to be transferred, known by what it is: SHA-256 and size in bytes."""

    digest: Sha256
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_CONTENT_BYTES)]


class Message(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """Base of all messages, in version `v`. Its own floats travel as float32, those of structs in it as float64."""

    v: int = SPOKEN.newest


class Manifest(Message, frozen=True, kw_only=True):
    """Retained on the round topic: what the federation is doing. `round` counts from 0; `done` ends it.

    `incarnation` counts the aggregator's starts: when it changes, agents check in again. `v` is the oldest version that
    the aggregator speaks, `newest` the newest, 0 if that is the same.

    Where devices have joined a gateway it is signed (`fedprune.wire.proof`): `epoch` is that of the key, and
    `weights_digest` the beginning of that of the round's model.
    """

    run: Id
    incarnation: Count
    round: Count
    done: bool = False
    epoch: Count = 0
    weights_digest: ProvenDigest = b""
    signature: Signature = b""
    newest: Count = 0


class CheckIn(Message, frozen=True, kw_only=True):
    """An agent offers itself; answered by `Assignment` or `Rejected`.

    `examples`: how many it holds; no update of its next round weighs more. `ticket`: what the last `Rejected` gave,
    which shows that answers reach the agent. `version`: the model of `run` that it holds, -1 for none; it holds one
    only once the digest of its weights was right. `wants_whole`: what it held led elsewhere, so that it must be sent
    the whole model. `terms`: the incarnation whose terms it knows, 0 for none. `v` and `newest` as in `Manifest`.
    """

    examples: Count
    ticket: Ticket = b""
    run: RunId = ""
    version: Version = -1
    wants_whole: bool = False
    terms: Count = 0
    trainer: Text = ""
    newest: Count = 0


class LeftOut(msgspec.Struct, frozen=True, array_like=True):
    """An agent's update of `round` that was accepted, and then left out of the merge."""

    round: Count
    why: Text


class Terms(msgspec.Struct, frozen=True, array_like=True):
    """The part of an assignment that is the same in all rounds of an incarnation, and so is said once to each agent.

    `seed` keys the agents' randomness. `clock_steps`: the steps by which a round moves the schedule's clock. `codec`
    describes that of updates, `model_codec` how models travel. `hold_out`: the share of its examples that an agent
    evaluates the model on and does not train on. `statement`: the root key's on who signs the manifests
    (`fedprune.wire.proof`), where devices have joined a gateway.
    """

    task: Content
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    clock_steps: Count
    codec: Text
    model_codec: Text = ""
    hold_out: Share = 0.0
    statement: Annotated[bytes, msgspec.Meta(max_length=MAX_STATEMENT_BYTES)] = b""


class Assignment(Message, frozen=True, kw_only=True):
    """One round's work for one agent.

    `weights_digest` is the beginning of that of the decoded model (`fedprune.model.tensors.weights_digest`).
    `seconds_left` until the deadline. `left_out`: the agent's last update in `run` that was left out, if any; what that
    round left is to be dropped. `terms`: None where the agent knows those of `incarnation`.

    `model` is the whole model where `base` is -1, else a replay that leads to it from version `base`; None if the agent
    needs none, since `base` is the round's own version. Version 0 of a task with a random start follows from the task.
    A small content is in the message itself, the first time that it is sent.

    `accepted` says of the agent's last update what `Accepted` says, where that was not said before. `round`,
    `weights_digest`, `run` and `incarnation` may be unsaid where they are the manifest's (`fedprune.wire.unsaid`).
    """

    seconds_left: Count
    base: Version = -1
    model: Content | Inline | None = None
    accepted: UpdateTag | None = None
    round: Count = 0
    weights_digest: WeightsDigest = b""
    run: RunId = ""
    incarnation: Count = 0
    left_out: LeftOut | None = None
    terms: Terms | None = None

    @property
    def known(self) -> Terms:
        """The terms of an assignment that was completed with them."""
        assert self.terms is not None
        return self.terms

    @property
    def task(self) -> Content:
        return self.known.task

    @property
    def schedule_step(self) -> int:
        """The number of steps of the schedule's clock before this round."""
        return self.round * self.known.clock_steps


class Need(Message, frozen=True, kw_only=True):
    """The chunks that the sender lacks and asks for now, of a content that is cut into chunks of `chunk_bytes`: bit i
    (least significant first) is chunk i. `even_if_sent`: also those that were broadcast just now, since they are not on
    their way to the sender."""

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


class Evaluated(msgspec.Struct, frozen=True, array_like=True):
    """An agent's evaluation of the round's model, before it trained, on the `examples` that it holds out.

    `loss` is their mean loss, None where it is not finite. `tallies` are the task's metrics
    (`fedprune.task.tallies`), empty without a loss, or where they are in the update.
    """

    examples: Submitted
    loss: Loss | None = None
    tallies: Annotated[bytes, msgspec.Meta(max_length=MAX_TALLIES_BYTES)] = b""


class Begun(Message, frozen=True, kw_only=True):
    """An agent that had nothing to ask for is at work in the round, and so keeps its place."""

    round: Count


class Submit(Message, frozen=True, kw_only=True):
    """An agent's update is ready; answered by `Accepted`, `Rejected` or `Need`. Also asks the book about it.

    `update` names it; a small one is in the message itself, the first time that it is sent.

    `examples` weighs the update, which is of `local_steps` optimizer steps. `loss` is the mean training loss,
    `train_hundredths` the hundredths of seconds of wall time spent training. `idle_memory_mb` and `peak_memory_mb` are
    the process's high-water marks before its first assignment and now, `x_mean` and `x_largest` the mean and the
    largest magnitude of the examples' inputs, as they are trained on. `evaluated`: on the examples that the agent holds
    out, if it does. `run`, the marks and the inputs may be unsaid (`fedprune.wire.unsaid`).
    """

    round: Count
    update: Content | Inline
    examples: Submitted
    local_steps: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    loss: Loss = 0.0
    train_hundredths: Count = 0
    run: RunId = ""
    idle_memory_mb: Count = 0
    peak_memory_mb: Count = 0
    x_mean: Loss = 0.0
    x_largest: Magnitude = 0.0
    evaluated: Evaluated | None = None

    @property
    def content(self) -> Content:
        """The name of the update, of a submit that does not bring it."""
        assert isinstance(self.update, Content)
        return self.update


class Accepted(Message, frozen=True, kw_only=True):
    """The update whose digest begins so is durable and counts once, unless the merge does without it (`LeftOut`)."""

    round: Count
    update: UpdateTag


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
    OTHER_HISTORY = "other-history"
    """The update is coded by another history of its agent than the gateway remembers: send it as it is without."""
    UNREADABLE = "unreadable"
    """The message could not be read, for the reason in `detail`: the two sides run different versions."""


class Rejected(Message, frozen=True, kw_only=True):
    """The answer no. `digest` names the update it is about; without one it answers a check-in, or whatever was
    unreadable. An agent that trains stops when its check-in is answered so: the round does without it.

    `ticket`, if there is one, is for the agent's next check-in, which it sends at once. `epoch`, `incarnation` and
    `round` are those of the last manifest, where manifests are signed: an old answer that is sent again is known by
    them.
    """

    reason: Reason
    detail: Text = ""
    retry_after: Seconds = 10.0
    digest: Sha256 | None = None
    ticket: Ticket = b""
    epoch: Count = 0
    incarnation: Count = 0
    round: Count = 0


class Failed(Message, frozen=True, kw_only=True):
    """An agent cannot do the round it was assigned: the aggregator need not wait for it. `rests`: nothing is wrong,
    its device does not permit training now, or too little time is left for it."""

    run: Id
    round: Count
    why: Text
    rests: bool = False


class Presence(msgspec.Struct, frozen=True):
    """Retained JSON on the status topic, for people; the last will says offline."""

    state: str
    agent: str
    version: str = ""


UPLINK: dict[str, type[Message]] = {
    "check-in": CheckIn,
    "need": Need,
    "begun": Begun,
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

Greeting = Manifest | CheckIn
_LASTING = (Rejected, Chunk)
"""Kinds that are read in every version, without a word on which ones the sender speaks."""

_KINDS = {kind_type: kind for kind, kind_type in (UPLINK | DOWNLINK).items()}
_M = TypeVar("_M", bound=Message)
_G = TypeVar("_G", bound=Manifest | CheckIn)


def kind_of(message: Message) -> str:
    """The last topic level under which `message` travels."""
    return _KINDS[type(message)]


def encode(message: Message, agreed: int | None = None, spoken: Versions = SPOKEN) -> bytes:
    """The message's bytes, without the last fields where they have their defaults.

    It is in the version that was `agreed` on, or the oldest that is `spoken`; a greeting tells all of these. A message
    over `MAX_MESSAGE_BYTES` is our own bug and asserts.
    """
    if isinstance(message, Greeting):
        message = greeting(message, spoken)
    else:
        message = msgspec.structs.replace(message, v=spoken.oldest if agreed is None else agreed)
    payload = pack(message)
    assert len(payload) <= MAX_MESSAGE_BYTES, f"{type(message).__name__} of {len(payload)} bytes"
    return payload


def greeting(message: _G, spoken: Versions) -> _G:
    """A manifest or a check-in that tells the versions that its sender speaks."""
    newest = spoken.newest if spoken.newest > spoken.oldest else 0
    return msgspec.structs.replace(message, v=spoken.oldest, newest=newest)


def tag_of(digest: bytes) -> bytes:
    """The name by which an acceptance knows the update of that digest."""
    return digest[:UPDATE_TAG_BYTES]


def decode(kind: type[_M], payload: bytes, spoken: Versions = SPOKEN) -> _M:
    """Decode foreign bytes. Raises `ProtocolError` if they are too long, malformed, or in no version that is `spoken`;
    a greeting, if both sides speak none."""
    if len(payload) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"{kind.__name__}: {len(payload)} bytes, at most {MAX_MESSAGE_BYTES} are allowed")
    try:
        message: Any = msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"{kind.__name__}: {error}") from error
    others = versions_of(message)
    if not isinstance(message, _LASTING) and spoken.common(others) is None:
        whom = "this side" if others.newest > spoken.newest else "the other side"
        raise ProtocolError(f"{kind.__name__}: of {others} of the protocol, this side speaks {spoken}; upgrade {whom}")
    return message  # type: ignore[no-any-return]


def versions_of(message: Message) -> Versions:
    """The versions that its sender speaks, of a greeting; else the one that the message is in."""
    newest = message.newest if isinstance(message, Greeting) else 0
    return Versions(message.v, newest or message.v)
