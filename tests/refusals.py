"""What a command says as it refuses: one line, and its exit code."""

from __future__ import annotations

import re
from pathlib import Path

from tests.processes import run

CONFIGURATION, DATA, TASK, BROKER, STORAGE, TRAINING, EXPORT = 3, 4, 5, 6, 7, 9, 10
_LOG_LINE = re.compile(r"\d\d:\d\d:\d\d [\w-]+: ")


def line_of(said: str) -> str:
    """The one line that was said besides the log."""
    lines = [line for line in said.splitlines() if line and not _LOG_LINE.match(line)]
    assert len(lines) == 1, said
    assert lines[0].startswith("fedprune: ")
    return lines[0].removeprefix("fedprune: ")


def refusal(code: int, *arguments: str | Path, env: dict[str, str] | None = None, largest_file: int = 0) -> str:
    """What a command says as it ends with `code`."""
    ended_with, said = run(*arguments, env=env, largest_file=largest_file)
    assert ended_with == code, said
    return line_of(said)
