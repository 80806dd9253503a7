"""The descriptions that docs/DATA.md shows are valid, and what it imports is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedprune.data.task_toml import load_description
from tests.docs.snippets import ROOT

_TEXT = (ROOT / "docs" / "DATA.md").read_text()
_DESCRIPTIONS = re.findall(r"^```toml\n(.*?)^```$", _TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("description", _DESCRIPTIONS)
def test_a_description_is_valid(tmp_path: Path, description: str) -> None:
    (tmp_path / "task.toml").write_text(description)
    (tmp_path / "words.txt").write_text("good\nmorning\n")
    assert load_description(tmp_path / "task.toml").labels or 'form = "table"' in description  # type: ignore[union-attr]


def test_every_form_but_arrays_is_shown() -> None:
    shown = re.findall(r'^form = "(\w+)"$', _TEXT, re.MULTILINE)
    assert shown == ["table", "series", "images", "recordings", "text"]


def test_what_is_imported_beside_an_exported_model_is_there() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", _TEXT, re.MULTILINE | re.DOTALL)
    imports = [line for line in code.splitlines() if line.startswith("from ")]
    assert imports
    exec("\n".join(imports), {})
