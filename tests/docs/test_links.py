"""The files that documents link to, or name, are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.snippets import DOCUMENTS, ROOT

_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
_NAMED = re.compile(
    r"`((?:\w+/)*(?:aggregator|benchmarks|deploy|docs|edge_agent|export|fedprune|requirements|tests)/[\w./-]*)`"
)


def _ids(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=_ids)
def test_links_lead_somewhere(document: Path) -> None:
    broken = [link for link in _LINK.findall(document.read_text()) if not (document.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=_ids)
def test_files_of_the_project_that_are_named_exist(document: Path) -> None:
    missing = [name for name in _NAMED.findall(document.read_text()) if not (ROOT / name).exists()]
    assert not missing


def test_a_file_that_is_gone_would_be_found() -> None:
    assert _NAMED.findall("see `fedprune/wire/telegraph.py` and `tests/unit/`") == [
        "fedprune/wire/telegraph.py",
        "tests/unit/",
    ]
    assert _LINK.findall("[x](docs/GONE.md#there), [y](https://example.org/a)") == ["docs/GONE.md"]
