"""The commands that README.md, CONTRIBUTING.md and docs/ show, as tests need them.

A fenced ``console`` block shows commands after ``$ ``, and what they print; a ``bash`` block is all commands. An HTML
comment right above a block makes a test run it, in a copy of docs/examples:

``<!-- run -->``                each command, one after the other
``<!-- run: background -->``    each in a terminal of its own, until the document ends, and on once it has spoken
``<!-- run: together -->``      the first one to its end, the others in terminals of their own
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]

_BLOCK = re.compile(
    r"(?:<!-- run(?:: (?P<how>\w+))?(?P<marked>) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
_CODE_SPAN = re.compile(r"(?<!`)`((?:fedprune|make|python -m) [^`]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """The commands of one fenced block. `how` is None unless a test runs them: "", "background" or "together"."""

    commands: tuple[str, ...]
    how: str | None


def blocks(document: Path) -> Iterator[Block]:
    """The blocks of commands in a Markdown document, in order."""
    for match in _BLOCK.finditer(document.read_text()):
        if match["kind"] in ("console", "bash"):
            how = None if match["marked"] is None else match["how"] or ""
            yield Block(tuple(_commands(match["kind"], match["text"].replace("\\\n", " "))), how)


def commands(document: Path) -> Iterator[str]:
    """Every command line that a document shows, in blocks and within sentences."""
    for block in blocks(document):
        yield from block.commands
    yield from _CODE_SPAN.findall(_BLOCK.sub("", document.read_text()))


def _commands(kind: str, text: str) -> Iterator[str]:
    for line in text.splitlines():
        if kind == "bash" and line.strip():
            yield line
        elif line.startswith("$ "):
            yield line.removeprefix("$ ")
