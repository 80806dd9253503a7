"""docs/SETTINGS.md has every key of every configuration file, and no key that there is not; the examples are valid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import inspect

from aggregator.settings import FederationSettings
from aggregator.sub_gateway.settings import SubGatewaySettings
from edge_agent.settings import AgentSettings
from export.settings import TaskSettings
from fedprune.config import FILE_OF, load_toml
from fedprune.errors import ConfigurationError
from fedprune.identity.settings import GatewaySettings
from fedprune.wire.broker import Broker
from tests.docs.snippets import ROOT

_FILES: dict[str, type[msgspec.Struct]] = {
    "task.toml": TaskSettings,
    "federation.toml": FederationSettings,
    "sub-gateway.toml": SubGatewaySettings,
    "agent.toml": AgentSettings,
    "gateway.toml": GatewaySettings,
}
_TABLES = {**_FILES, "`[broker]`": Broker}


def _section(heading: str) -> str:
    text = (ROOT / "docs" / "SETTINGS.md").read_text()
    named = re.compile(rf"(?<![\w-]){re.escape(heading)}")
    (section,) = (part for part in re.split(r"^## ", text, flags=re.MULTILINE) if named.search(part.partition("\n")[0]))
    return section


def _documented(heading: str) -> Iterator[str]:
    """The keys that stand in a section's table: those of the first column, and what a row calls parts of its key."""
    for row in re.findall(r"^\| (`.*)\|$", _section(heading), re.MULTILINE):
        first, rest = row.split(" | ", 1)
        for key in re.findall(r"`([^`]+)`", first):
            yield key
            yield from (f"{key}.{part}" for part in re.findall(r"(?:`|[{] )([a-z_0-9]+)(?:`| =)", rest))


def _keys(form: inspect.Type, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a settings struct. Of a choice of structs, the keys of each; of tables with names of
    one's own, those of any; of `[broker]`, only its name."""
    if isinstance(form, inspect.UnionType):
        for member in form.types:
            yield from _keys(member, prefix)
    elif isinstance(form, inspect.StructType) and not (prefix and form.cls is Broker):
        if form.tag_field is not None:
            yield prefix + form.tag_field
        for field in form.fields:
            yield from _keys(field.type, f"{prefix}{field.encode_name}.")
    elif isinstance(form, inspect.DictType):
        yield from _keys(form.value_type, f"{prefix}NAME.")
    elif prefix and not isinstance(form, inspect.NoneType):
        yield prefix.removesuffix(".")


@pytest.mark.parametrize("heading", _TABLES)
def test_every_key_is_documented(heading: str) -> None:
    missing = set(_keys(inspect.type_info(_TABLES[heading]))) - set(_documented(heading))
    assert not missing, f"docs/SETTINGS.md, {heading}"


@pytest.mark.parametrize("heading", _TABLES)
def test_every_documented_key_exists(heading: str) -> None:
    keys = set(_keys(inspect.type_info(_TABLES[heading])))
    containers = {key.rpartition(".")[0] for key in keys}
    first_column = re.findall(r"^\| (`.*?) \| ", _section(heading), re.MULTILINE)
    named = {key for cell in first_column for key in re.findall(r"`([^`]+)`", cell)}
    assert not named - keys - containers


def test_an_undocumented_key_would_be_found() -> None:
    class Fancy(AgentSettings, frozen=True, forbid_unknown_fields=True):
        sparkle: int = 3

    assert set(_keys(inspect.type_info(Fancy))) - set(_documented("agent.toml")) == {"sparkle"}


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "examples").glob("*.toml")), ids=lambda path: str(path.name))
def test_an_example_is_valid(path: Path) -> None:
    load_toml(path, _FILES[path.name])


def test_a_setting_of_another_file_is_told_to_be_that_ones(tmp_path: Path) -> None:
    having = {key: [name for name, form in _FILES.items() if key in form.__struct_fields__] for key in FILE_OF}
    assert having == {key: [name] for key, name in FILE_OF.items()}
    (tmp_path / "mine.toml").write_text("[model]\nseed = 1\n")
    with pytest.raises(ConfigurationError, match=r"key .model. unknown \(it is a setting of task\.toml: is"):
        load_toml(tmp_path / "mine.toml", FederationSettings)
