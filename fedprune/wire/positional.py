"""Structs as they travel: arrays of their fields in order, as short as they can be said."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import msgspec

_FLOAT_32 = 0xCA
"""MessagePack's sign that a float32 follows."""

_LARGEST_WHOLE = 2**24
"""Up to here whole numbers are exact in float32, and no longer than one."""


def pack(said: msgspec.Struct) -> bytes:
    """The array in MessagePack. Floats of the struct itself are float32, or whole numbers where they are whole; those
    of structs in it are float64."""
    return msgspec.msgpack.encode([_short(value) for value in fields_said(said)])


def fields_said(said: msgspec.Struct) -> list[Any]:
    """The fields in order, without the last ones where they have their defaults: so they are the same to a side that
    does not know of these."""
    values, defaults = [*msgspec.structs.astuple(said)], _defaults(type(said))
    while values and values[-1] == defaults[len(values) - 1]:
        values.pop()
    return values


@cache
def _defaults(kind: type[msgspec.Struct]) -> tuple[Any, ...]:
    """The default of each field, in order."""
    return tuple(field.default for field in msgspec.structs.fields(kind))


def _short(value: Any) -> Any:
    """A field as it travels: msgspec would write 9 bytes for each float."""
    if not isinstance(value, float):
        return value
    if value.is_integer() and abs(value) <= _LARGEST_WHOLE:
        return int(value)
    return msgspec.Raw(struct.pack(">Bf", _FLOAT_32, value))
