"""The files that documents link to, or name, are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.snippets import DOCUMENTS, ROOT

_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
_PLACE = re.compile(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_NAMED = re.compile(
    r"`((?:\w+/)*(?:aggregator|benchmarks|deploy|docs|edge_agent|export|fedprune|requirements|tests)/[\w./-]*)`"
)


def _ids(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=_ids)
def test_links_lead_somewhere(document: Path) -> None:
    broken = [link for link in _LINK.findall(document.read_text()) if not (document.parent / link).exists()]
    assert not broken


def _places(text: str) -> set[str]:
    """The names that GitHub gives to a document's headings."""
    headings = _HEADING.findall(_CODE.sub("", text))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=_ids)
def test_links_lead_to_headings_that_are_there(document: Path) -> None:
    links = [
        (document.parent / link if link else document, place) for link, place in _PLACE.findall(document.read_text())
    ]
    assert [place for there, place in links if place not in _places(there.read_text())] == []


def test_a_heading_that_is_gone_would_be_found() -> None:
    assert _places("# `a.toml`: what, and (how)\n```\n# no heading\n```\n## Bytes both ways") == {
        "atoml-what-and-how",
        "bytes-both-ways",
    }


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
