"""How a demo goes, shown as it goes: with bars on a terminal, else line by line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from aggregator.book import RoundRecord
from benchmarks.demo.federation import Display


@contextmanager
def open_display(rounds: int) -> Iterator[Display]:
    """A display on standard error, of a demo of so many rounds."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(rounds)
        return
    with _Bars(console, rounds) as bars:
        yield bars


class _Lines:
    """A line for each part of the work, and for each round: a pipe, and a file, are read while they grow."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds

    def stage(self, title: str) -> None:
        self.note(title)

    def note(self, text: str) -> None:
        click.echo(text, err=True)

    def round(self, record: RoundRecord) -> None:
        self.note(f"round {record.round + 1}/{self._rounds}: {_news(record)}")
        for line in _warnings(record):
            self.note(line)


class _Bars:
    """A line for what goes on, a bar for the rounds."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._console = console
        self._rounds = rounds
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[news]}"),
            console=console,
        )
        self._current: Any = None

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self._complete()
        self._progress.stop()

    def stage(self, title: str) -> None:
        self._complete()
        total = self._rounds if title.startswith("Training") else 1
        self._current = self._progress.add_task(title, total=total, news="")

    def note(self, text: str) -> None:
        self._console.print(text, style="yellow")

    def round(self, record: RoundRecord) -> None:
        self._progress.update(self._current, completed=record.round + 1, news=_news(record))
        for line in _warnings(record):
            self.note(line)

    def _complete(self) -> None:
        if self._current is not None:
            self._progress.update(self._current, completed=self._progress.tasks[self._current].total)


def _news(record: RoundRecord) -> str:
    return f"accuracy {record.accuracy:.3f}, sparsity {record.sparsity:.2f}"


def _warnings(record: RoundRecord) -> Iterator[str]:
    if record.left_out:
        yield f"round {record.round + 1}: updates were left out, of {', '.join(record.outliers)}"
    if record.suspects:
        yield f"round {record.round + 1}: standing apart are {', '.join(record.suspects)}"
