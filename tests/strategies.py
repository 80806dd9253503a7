"""Hypothesis strategies for messages, valid and damaged, from the constraints that their types state."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from fedprune.wire.messages import DOWNLINK, UPLINK, Manifest, Message, encode
from fedprune.wire.versions import SPOKEN

MESSAGE_TYPES = sorted({*UPLINK.values(), *DOWNLINK.values(), Manifest}, key=lambda kind: kind.__name__)

_VERSIONS = ("v", "newest")


def messages(kind: type[Message]) -> st.SearchStrategy[Message]:
    """Every message of a kind that our own side could send."""
    return st.builds(kind, v=st.just(SPOKEN.newest), **_fields(inspect.type_info(kind)))


def _fields(form: inspect.Type) -> dict[str, st.SearchStrategy[Any]]:
    assert isinstance(form, inspect.StructType)
    return {field.name: _values(field.type) for field in form.fields if field.name not in _VERSIONS}


def _values(form: inspect.Type) -> st.SearchStrategy[Any]:
    match form:
        case inspect.IntType(ge=low, le=high):
            return st.integers(low, high)
        case inspect.FloatType(ge=low, le=high):
            return st.floats(low, high, width=32)
        case inspect.StrType(pattern=str(pattern)):
            return st.from_regex(pattern)
        case inspect.StrType(max_length=longest):
            return st.text(max_size=min(longest or 50, 50))
        case inspect.BytesType(min_length=shortest, max_length=longest):
            return st.binary(min_size=shortest or 0, max_size=50 if longest is None else longest)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.EnumType(cls=kind):
            return st.sampled_from(kind)
        case inspect.UnionType(types=members):
            return st.one_of(*map(_values, members))
        case inspect.StructType(cls=kind):
            return st.builds(kind, **_fields(form))
    raise AssertionError(f"no strategy for {form}")


_EXTREMES: list[Any] = [None, True, -1, 0, 2**31 - 1, 2**31, 2**63, float("nan"), float("inf"), "", "a/b", b"", [], {}]
_FOREIGN = st.sampled_from(_EXTREMES) | st.binary(max_size=40) | st.text(max_size=10)


@st.composite
def damaged(draw: st.DrawFn, message: Message) -> bytes:
    """The bytes of `message` after a mutation that knows their structure: most of it remains as it was."""
    payload = encode(message)
    match draw(st.sampled_from(["field", "lost", "cut", "flipped", "inserted", "repeated"])):
        case "field":
            fields = msgspec.msgpack.decode(payload)
            place = draw(st.sampled_from(range(len(fields))))
            inner = fields[place]
            if isinstance(inner, list) and draw(st.booleans()):
                inner[draw(st.sampled_from(range(len(inner))))] = draw(_FOREIGN)
            else:
                fields[place] = draw(_FOREIGN)
            return msgspec.msgpack.encode(fields)
        case "lost":
            fields = msgspec.msgpack.decode(payload)
            del fields[draw(st.sampled_from(range(len(fields))))]
            return msgspec.msgpack.encode(fields)
        case "cut":
            return payload[: draw(st.integers(0, len(payload) - 1))]
        case "flipped":
            at = draw(st.integers(0, len(payload) - 1))
            return payload[:at] + bytes([payload[at] ^ 1 << draw(st.integers(0, 7))]) + payload[at + 1 :]
        case "inserted":
            at = draw(st.integers(0, len(payload)))
            return payload[:at] + draw(st.binary(min_size=1, max_size=8)) + payload[at:]
    return payload * 2
