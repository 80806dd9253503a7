"""Numbers in the cells of a table. What else stands there is named as what it seems to be."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from fedprune.data.skipped import Fault, Unusable, brief

_LARGEST = float(np.finfo(np.float32).max)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_DATE_OR_TIME = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}\b.*|.*\b\d{1,2}:\d{2}\b.*")


def number(cell: str, column: str) -> float:
    """The number in a cell, which float32 can hold. Raises `Unusable`, which names the column.

    Example:
        >>> number(" 21.5", "temperature")
        21.5
    """
    try:
        value = float(cell)
    except ValueError:
        raise _no_number(cell, column) from None
    if "_" in cell:  # to Python 2026_11_26 is a number
        raise _no_number(cell, column)
    if not abs(value) <= _LARGEST:
        raise Unusable(Fault.NO_NUMBER, f"column {column!r} is '{brief(cell)}'; correct it or remove the row")
    return value


def numbers(cells: Sequence[str], columns: Sequence[str], *, may_lack: bool = False) -> list[float]:
    """The number in each cell. Raises `Unusable` for the first that is none.

    With `may_lack` that of an empty cell is NaN, unless all are empty.

    Example:
        >>> numbers(["21.5", " "], ["temperature", "humidity"], may_lack=True)
        [21.5, nan]
    """
    if may_lack and any(map(str.strip, cells)):
        pairs = zip(cells, columns, strict=True)
        return [number(cell, column) if cell.strip() else math.nan for cell, column in pairs]
    return [number(cell, column) for cell, column in zip(cells, columns, strict=True)]


def is_text(cell: str) -> bool:
    """False for a cell whose bytes were not UTF-8, which reading kept as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in cell)


def _no_number(cell: str, column: str) -> Unusable:
    shown = brief(cell.strip())
    if not cell.strip():
        return Unusable(Fault.EMPTY, f"column {column!r} is empty; fill it in or remove the row")
    if not is_text(cell):
        return Unusable(Fault.ENCODING, f"column {column!r} is '{shown}'; save the file in UTF-8")
    if _DECIMAL_COMMA.fullmatch(cell.strip()):
        return Unusable(
            Fault.DECIMAL_COMMA, f"column {column!r} is '{shown}'; write {shown.replace(',', '.')}, with a point"
        )
    if _DATE_OR_TIME.fullmatch(cell.strip()):
        return Unusable(
            Fault.DATE,
            f"column {column!r} is '{shown}'; write it as a number, such as seconds, or build a task without it",
        )
    return Unusable(Fault.NO_NUMBER, f"column {column!r} is '{shown}'; write a number or remove the row")
