"""Faults that cost a row or a file and not the rest: each kind is counted, and said once with its first place."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from enum import StrEnum

from fedprune.data.dataset import Examples
from fedprune.data.example_buffer import ExampleBuffer
from fedprune.errors import DataError
from fedprune.system.paths import path_text

_log = logging.getLogger(__name__)

_BRIEF = 80
"""Characters of foreign text that a message shows."""


class Fault(StrEnum):
    """The kinds of faults, as they are counted: there are no more of them than stand here."""

    EMPTY = "rows with an empty cell"
    DECIMAL_COMMA = "rows with a decimal comma"
    DATE = "rows with a date or a time for a number"
    NO_NUMBER = "rows without a finite number where one should be"
    CELLS = "rows with more cells than the header"
    QUOTES = "rows with wrong quotes"
    ENCODING = "rows that are not text in UTF-8"
    NO_OBJECT = "lines that hold no JSON object with the task's fields"
    LABEL = "rows with a label that the task does not know"
    COLUMNS = "files without the task's columns"
    FOLDER = "folders with a label that the task does not know"
    DAMAGED = "files that cannot be read"
    TOO_LARGE = "files that are too large"
    RATE = "recordings of another sample rate"
    SHORT = "stretches of rows shorter than a window"


class Unusable(DataError):
    """One row or file that cannot be used. The message says why, and how to mend it; its place is the catcher's."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


class Skipped:
    """All that is skipped of one source, which `origin` names."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._counts: dict[Fault, int] = {}
        self._firsts: dict[Fault, str] = {}
        self._missing = 0
        self._first_missing = ""

    def add(self, where: str, unusable: Unusable) -> None:
        self._counts[unusable.fault] = self._counts.get(unusable.fault, 0) + 1
        self._firsts.setdefault(unusable.fault, f"{where}: {unusable}")

    def note_missing(self, where: str, columns: Sequence[str], values: Sequence[float]) -> None:
        """Count what is NaN among the numbers of a row that is used."""
        for column, value in zip(columns, values, strict=True):
            if math.isnan(value):
                self._missing += 1
                self._first_missing = self._first_missing or f"{where}: column {column!r}"

    @property
    def count(self) -> int:
        """Of what is skipped."""
        return sum(self._counts.values())

    def told(self) -> list[str]:
        """A line for each kind of fault, with its first place."""
        return [f"{count} {fault} skipped, the first is {self._firsts[fault]}" for fault, count in self._counts.items()]

    def finish(self, examples: ExampleBuffer) -> Examples:
        """The examples that are left, after a warning for each kind of fault. Raises `DataError` if none is left.

        The error shows nothing of what the data hold: an agent tells it to the gateway, whose task chooses the column
        that is read.
        """
        for told in self.told():
            _log.warning("%s: %s", self._origin, told)
        if self._missing:
            _log.warning(
                "%s: %s empty cells are taken as the mean of their column, the first is %s",
                self._origin,
                self._missing,
                self._first_missing,
            )
        if not len(examples):
            counts = ", ".join(f"{count} {fault}" for fault, count in self._counts.items())
            raise DataError(
                f"{self._origin}: no example is left: {counts}; the warnings before this, where it was read, tell the "
                "first of each and its cure"
                if counts
                else f"{self._origin}: no example in it"
            )
        return examples.examples(self._origin)


def brief(thing: object) -> str:
    """Foreign text as one short line that can be written anywhere.

    Example:
        >>> brief("two\\nlines")
        'two\\\\nlines'
    """
    return repr(path_text(str(thing)))[1:-1][:_BRIEF]
