"""Strict TOML configuration: a file becomes a frozen struct, and what cannot be used is named by file and key."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from fedprune.errors import ConfigurationError

MAX_BYTES = 2**20
"""More than any person writes."""

FILE_OF = {
    **dict.fromkeys(("model", "training", "pruning", "evaluation"), "task.toml"),
    **dict.fromkeys(
        ("task", "held_out", "agents_hold_out", "keep_checkpoints", "codec", "aggregation"), "federation.toml"
    ),
    **dict.fromkeys(("trainer", "personal_model", "root_key", "guest", "consent"), "agent.toml"),
    "parent": "sub-gateway.toml",
}
"""The only file that has a setting of this name: who names another file for it is told."""

_T = TypeVar("_T")


def load_toml(path: Path, kind: type[_T]) -> _T:
    """Read a TOML file as `kind`, a struct that forbids unknown fields. Raises `ConfigurationError`."""
    return from_table(read_table(path), kind, str(path))


def read_table(path: Path) -> dict[str, Any]:
    """A TOML file's top-level table. Raises `ConfigurationError` if it cannot be read or is not TOML."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ConfigurationError(f"{path}: larger than {MAX_BYTES} bytes, not a configuration file")
        return tomllib.loads(text_of(text))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}; name a .toml file that can be read") from error
    except UnicodeError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from error


def text_of(blob: bytes) -> str:
    """The text of a file that a person wrote: UTF-8, with or without the byte order mark that Notepad puts first.

    Raises `UnicodeError`, whose message says what to do, for another encoding.

    Example:
        >>> text_of(b"\\xef\\xbb\\xbfname")
        'name'
    """
    try:
        return blob.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnicodeError("not text in UTF-8; save it in UTF-8") from error


def override(table: dict[str, Any], section: str, key: str, value: Any) -> None:
    """Set `key` in a section of `table`; a section that is no table is left for `from_table` to refuse."""
    inner = table.setdefault(section, {})
    if isinstance(inner, dict):
        inner[key] = value


def from_table(table: Mapping[str, Any], kind: type[_T], origin: str) -> _T:
    """A table as `kind`, a struct that forbids unknown fields; `origin` is what to call the table in messages.

    Raises `ConfigurationError` naming the key: unknown (with the nearest known one), missing, or of a wrong value
    (with the known ones, where those are some words).
    """
    for problem in _unknown_keys(table, inspect.type_info(kind), ""):
        raise ConfigurationError(f"{origin}: {problem}")
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
        place = place.removesuffix("`")
        key = f"{place}: " if place else ""
        problem = problem.replace("Object missing required field", "a required key is missing:")
        problem = problem.replace("Invalid enum value", "invalid value")
        choices = sorted(_choices(inspect.type_info(kind), place.split(".")))
        hint = f" (known here: {', '.join(choices)})" if choices else ""
        raise ConfigurationError(f"{origin}: {key}{problem[0].lower()}{problem[1:]}{hint}") from error


def _unknown_keys(value: Any, form: inspect.Type, path: str) -> Iterator[str]:
    """A message for each key inside `value`, however deep, that `form` does not have."""
    if isinstance(form, inspect.UnionType):
        form = _member_for(value, form)
    if not isinstance(form, inspect.StructType) or not isinstance(value, Mapping):
        return
    fields = {field.encode_name: field.type for field in form.fields}
    known = [*fields, *([form.tag_field] if form.tag_field else [])]
    for key, inner in value.items():
        if key not in known:
            yield f"key {path + key!r} unknown ({_hint(key, known, path)})"
        elif key in fields:
            yield from _unknown_keys(inner, fields[key], f"{path}{key}.")


def _hint(key: str, known: Sequence[str], path: str) -> str:
    """What a person may have meant with a key that is not known."""
    import difflib  # settings that can be used do without

    if not path and key in FILE_OF:
        return f"it is a setting of {FILE_OF[key]}: is this the right file?"
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {path + near[0]!r}?" if near else f"known here: {', '.join(known)}"


def _choices(form: inspect.Type, keys: list[str]) -> set[str]:
    """The values that may stand at a place, if they are some words; `keys` lead there from `form`."""
    match form, keys:
        case inspect.UnionType(), _:
            return set().union(*(_choices(member, keys) for member in form.types))
        case inspect.StructType(), [key, *rest]:
            if key == form.tag_field:
                return {str(form.tag)}
            return set().union(*(_choices(field.type, rest) for field in form.fields if field.encode_name == key))
        case inspect.EnumType(), []:
            return {str(member.value) for member in form.cls}
        case inspect.LiteralType(), []:
            return {str(value) for value in form.values}
    return set()


def _member_for(value: Any, union: inspect.UnionType) -> inspect.Type:
    """The struct of a union that `value` is meant to be: by its tag, or the only one there is."""
    structs = [member for member in union.types if isinstance(member, inspect.StructType)]
    if len(structs) > 1 and isinstance(value, Mapping):
        structs = [member for member in structs if member.tag_field and value.get(member.tag_field) == member.tag]
    return structs[0] if len(structs) == 1 else inspect.AnyType()
