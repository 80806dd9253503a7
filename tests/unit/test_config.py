"""Configuration files: what a person mistypes is named by its path, with a hint."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.config import MAX_BYTES, from_table, load_toml
from fedprune.errors import ConfigurationError


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Circle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="circle"):
    radius: float


class Square(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="square"):
    side: float


class Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    shape: Circle | Square
    border: int = 1

    def __post_init__(self) -> None:
        if self.border < 0:
            raise ValueError("border must be at least 0")


class Picture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: str
    frame: Frame | None = None
    colour: Colour = Colour.RED
    size: Literal["large", "small"] | None = None


def refusal(tmp_path: Path, text: str) -> str:
    path = tmp_path / "picture.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_toml(path, Picture)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_a_file_becomes_a_struct(tmp_path: Path) -> None:
    path = tmp_path / "picture.toml"
    path.write_text('title = "sea"\n[frame]\nborder = 2\nshape = {kind = "circle", radius = 3}\n')

    assert load_toml(path, Picture) == Picture("sea", Frame(Circle(3.0), 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('titel = "sea"', "key 'titel' unknown (did you mean 'title'?)"),
        ('title = "sea"\nzzz = 1', "key 'zzz' unknown (known here: title, frame, colour, size)"),
        ('title = "sea"\n[frame]\nbordr = 1', "key 'frame.bordr' unknown (did you mean 'frame.border'?)"),
        (
            'title = "sea"\n[frame.shape]\nkind = "square"\nsize = 1',
            "key 'frame.shape.size' unknown (did you mean 'frame.shape.side'?)",
        ),
        ("", "a required key is missing: `title`"),
        ('title = "sea"\n[frame]\nborder = 2', "frame: a required key is missing: `shape`"),
        ("title = 3", "title: expected `str`, got `int`"),
        (
            'title = "sea"\n[frame.shape]\nkind = "star"',
            "frame.shape.kind: invalid value 'star' (known here: circle, square)",
        ),
        ('title = "sea"\ncolour = "grey"', "colour: invalid value 'grey' (known here: blue, red)"),
        ('title = "sea"\nsize = "huge"', "size: invalid value 'huge' (known here: large, small)"),
        (
            'title = "sea"\n[frame]\nborder = -1\nshape = {kind = "circle", radius = 3}',
            "frame: border must be at least 0",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text) == message


def test_what_is_not_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    assert "line 2" in refusal(tmp_path, 'title = "sea"\nframe = ?')


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    assert "not a configuration file" in refusal(tmp_path, "#" * (MAX_BYTES + 1))


@pytest.mark.parametrize("blob", [b"\xff\xfe", b"a=" + b"[" * 100_000], ids=["not UTF-8", "too deep"])
def test_hostile_bytes_are_refused(tmp_path: Path, blob: bytes) -> None:
    path = tmp_path / "picture.toml"
    path.write_bytes(blob)
    with pytest.raises(ConfigurationError, match=r"not valid TOML|not text in UTF-8"):
        load_toml(path, Picture)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no\.toml: No such file"):
        load_toml(tmp_path / "no.toml", Picture)


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_KEYS = st.sampled_from(["title", "frame", "shape", "border", "kind", "radius", "side", "circle"]) | st.text(max_size=5)
_VALUES = st.recursive(
    _SCALARS | st.sampled_from(["circle", "square"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=8,
)


@given(table=st.dictionaries(_KEYS, _VALUES, max_size=4))
def test_any_table_is_accepted_or_refused_in_the_tree(table: dict[str, Any]) -> None:
    try:
        picture = from_table(table, Picture, "table")
    except ConfigurationError:
        return
    assert msgspec.to_builtins(picture) | table == msgspec.to_builtins(picture)
