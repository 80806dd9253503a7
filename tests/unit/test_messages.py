"""Messages on the wire: fixed bytes, tolerant of what is new, intolerant of what is wrong.

Run this file to write the golden bytes anew, and only together with a new schema version.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.errors import ProtocolError
from fedprune.wire import messages
from fedprune.wire.authentication import MAC_BYTES
from fedprune.wire.messages import (
    DOWNLINK,
    MAX_CONTENT_BYTES,
    MAX_MESSAGE_BYTES,
    UPLINK,
    Assignment,
    Begun,
    CheckIn,
    Chunk,
    Failed,
    Manifest,
    Message,
    Need,
    Presence,
    Rejected,
    Submit,
    decode,
    encode,
    kind_of,
    versions_of,
)
from fedprune.wire.transfer import CHUNK_BYTES, chunk_count, pack_bitmap
from fedprune.wire.unsaid import brief_assignment, brief_submit, steady
from fedprune.wire.versions import SPOKEN, Versions
from tests.samples import MESSAGES, RUN, accepted, assignment, digest, manifest, submit
from tests.strategies import MESSAGE_TYPES, damaged
from tests.strategies import messages as any_message

GOLDEN = Path(__file__).parent.parent / "golden" / "messages.json"


def fields(message: Message) -> dict[str, Any]:
    values = msgspec.msgpack.decode(encode(message))
    unsaid = [field.default for field in msgspec.structs.fields(message)][len(values) :]
    return dict(zip(message.__struct_fields__, [*values, *unsaid], strict=True))


def said(fields: dict[str, Any]) -> bytes:
    """The bytes of a message with these fields, in order."""
    return msgspec.msgpack.encode([*fields.values()])


@pytest.mark.parametrize("name", MESSAGES)
def test_bytes_have_not_drifted(name: str) -> None:
    golden = bytes.fromhex(json.loads(GOLDEN.read_text())[name])

    assert encode(MESSAGES[name]) == golden
    assert decode(type(MESSAGES[name]), golden) == MESSAGES[name]


def test_every_kind_of_message_has_golden_bytes() -> None:
    assert {type(message) for message in MESSAGES.values()} == set(MESSAGE_TYPES)


def test_a_message_travels_under_its_kind() -> None:
    for kind, message_type in (UPLINK | DOWNLINK).items():
        assert all(kind_of(message) == kind for message in MESSAGES.values() if type(message) is message_type)


@given(st.one_of(*map(any_message, MESSAGE_TYPES)))
def test_every_message_comes_back(message: Message) -> None:
    assert decode(type(message), encode(message)) == message


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_behind_those_that_are_known_are_tolerated(name: str) -> None:
    """Also in the arrays inside: so that today's readers take what a later version adds."""
    unknown = {"of": ["the", "future"]}
    message = fields(MESSAGES[name])
    within = {field: [*value, unknown] for field, value in message.items() if isinstance(value, list)}

    newer = said({**message, **within, "colour": unknown})

    assert decode(type(MESSAGES[name]), newer) == MESSAGES[name]


def test_messages_of_other_versions_are_refused() -> None:
    others = (-1, 0, 1, SPOKEN.oldest - 1, SPOKEN.newest + 1, 2**63)
    for version, name in ((version, name) for version in others for name in MESSAGES):
        message, kind = fields(MESSAGES[name]) | {"v": version}, type(MESSAGES[name])
        if kind in (Rejected, Chunk):  # what refuses, and what goes to all, is read in every version
            assert msgspec.structs.replace(decode(kind, said(message)), v=SPOKEN.newest) == MESSAGES[name]
            continue
        with pytest.raises(ProtocolError, match=f"{kind.__name__}: of version {version} of the protocol, this side"):
            decode(kind, said(message))


@pytest.mark.parametrize("kind", [Manifest, CheckIn])
def test_a_greeting_tells_which_versions_its_sender_speaks(kind: type[Message]) -> None:
    greeting = next(message for message in MESSAGES.values() if type(message) is kind)
    of_7_to_8 = encode(greeting, spoken=Versions(7, 8))
    for spoken in (Versions(6, 7), Versions(7, 7), Versions(8, 9)):
        assert versions_of(decode(kind, of_7_to_8, spoken)) == Versions(7, 8)
    with pytest.raises(ProtocolError, match=f"{kind.__name__}: of versions 7 to 8 .* version 6; upgrade this side"):
        decode(kind, of_7_to_8, Versions(6, 6))
    with pytest.raises(ProtocolError, match=r"of versions 7 to 8 .* versions 9 to 10; upgrade the other side"):
        decode(kind, of_7_to_8, Versions(9, 10))


def test_other_messages_are_in_the_version_that_was_agreed_on() -> None:
    speaks_both = Versions(6, 7)
    for agreed in (6, 7):
        assert decode(Assignment, encode(MESSAGES["assignment"], agreed, speaks_both), speaks_both).v == agreed
    with pytest.raises(ProtocolError, match="Assignment: of version 7 of the protocol, this side speaks version 6"):
        decode(Assignment, encode(MESSAGES["assignment"], 7, speaks_both), Versions(6, 6))


def test_size_is_checked_before_anything_is_decoded() -> None:
    endless = b"\xdd\xff\xff\xff\xff" + b"\x80" * MAX_MESSAGE_BYTES

    with pytest.raises(ProtocolError, match="at most 122880 are allowed"):
        decode(Manifest, endless)


def test_the_largest_messages_fit() -> None:
    largest = [
        Chunk(digest=digest("x"), index=2**31 - 1, data=b"x" * CHUNK_BYTES),
        Need(
            digest=digest("x"),
            missing=pack_bitmap(
                range(chunk_count(MAX_CONTENT_BYTES, CHUNK_BYTES)), chunk_count(MAX_CONTENT_BYTES, CHUNK_BYTES)
            ),
        ),
        Failed(run="r" * 64, round=2**31 - 1, why="\U0001f600" * 1000),
    ]
    for message in largest:
        assert decode(type(message), encode(message)) == message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("field", ["loss", "x_mean", "x_largest"])
def test_numbers_that_would_poison_a_mean_are_refused(field: str, value: float) -> None:
    with pytest.raises(ProtocolError, match="Submit"):
        decode(Submit, said(fields(MESSAGES["submit"]) | {field: value}))


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("manifest", "run", "a/b"),
        ("manifest", "run", "a\n"),
        ("manifest", "run", "r" * 65),
        ("manifest", "round", -1),
        ("submit", "update", [b"short", 1]),
        ("submit", "update", [digest("x"), 0]),
        ("submit", "update", [digest("x"), MAX_CONTENT_BYTES + 1]),
        ("submit", "examples", 0),
        ("submit", "examples", 2**48 + 1),
        ("assignment", "weights_digest", digest("x")),
        ("rejected update", "reason", "because"),
        ("rejected update", "detail", "x" * 1001),
        ("chunk", "data", "text"),
    ],
)
def test_what_no_sender_of_ours_says_is_refused(name: str, field: str, value: object) -> None:
    with pytest.raises(ProtocolError, match=type(MESSAGES[name]).__name__):
        decode(type(MESSAGES[name]), said(fields(MESSAGES[name]) | {field: value}))


@pytest.mark.parametrize("kind", MESSAGE_TYPES)
@given(payload=st.binary(max_size=300))
def test_noise_is_refused_in_the_tree(kind: type[Message], payload: bytes) -> None:
    with suppress(ProtocolError):
        decode(kind, payload)


@given(st.sampled_from(list(MESSAGES.values())).flatmap(lambda message: st.tuples(st.just(message), damaged(message))))
def test_damaged_messages_are_refused_or_read_as_what_they_then_say(case: tuple[Message, bytes]) -> None:
    message, payload = case
    with suppress(ProtocolError):
        read = decode(type(message), payload)
        assert encode(decode(type(message), encode(read))) == encode(read)  # floats are said as float32


@pytest.mark.parametrize("payload", [b"\x91" * 100_000, b"\x81" + b"\xa1v" + b"\x91" * 100_000], ids=["list", "map"])
def test_deep_nesting_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(Manifest, payload)


def test_a_round_takes_little_beside_model_and_update() -> None:
    """In steady state: manifest, work, update; also where the round is long for one of them."""
    told = msgspec.structs.replace(assignment(119, model=None, terms=None), model=b"m", base=118, accepted=bytes(4))
    said = submit(119, examples=60_000)
    update = msgspec.structs.replace(brief_submit(said, steady(said)), update=b"u")
    signed = msgspec.structs.replace(manifest(119), epoch=1, weights_digest=bytes(8), signature=bytes(64))
    brief = [brief_assignment(told), msgspec.structs.replace(update, run="")]
    long = [assignment(119, model=None, terms=None), update, Begun(round=119), accepted(119)]

    def control(manifest: Manifest, messages: list[Message], mac: int = 0) -> int:
        return len(encode(manifest)) + sum(len(encode(message)) + mac for message in messages) - 2

    assert control(signed, brief, MAC_BYTES) <= 150
    assert control(manifest(119), [told, update]) <= 65
    assert control(manifest(119), long) <= 75


def test_presence_is_json_that_people_can_read() -> None:
    assert msgspec.json.encode(Presence(state="online", agent="pi-1", version="0.1.0")) == (
        b'{"state":"online","agent":"pi-1","version":"0.1.0"}'
    )


def test_oversized_messages_are_our_own_bug() -> None:
    with pytest.raises(AssertionError):
        encode(Chunk(digest=digest(RUN), index=0, data=b"x" * messages.MAX_MESSAGE_BYTES))


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: encode(message).hex() for name, message in MESSAGES.items()}, indent=1) + "\n")
