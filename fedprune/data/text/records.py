"""Records of text and label: rows of CSV files, or lines of JSONL files, each a JSON object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fedprune.data.skipped import Fault, Unusable, brief
from fedprune.data.tables.rows import Row, read_rows, text_lines
from fedprune.system.paths import path_text

JSONL = (".jsonl", ".ndjson")


def read_records(path: Path, fields: Sequence[str]) -> Iterator[Row]:
    """The records of one file, each as a row with the given columns or fields. Faults are rows too."""
    if path.suffix.lower() in JSONL:
        return _json_lines(path, fields)
    return read_rows(path, fields)


def _json_lines(path: Path, fields: Sequence[str]) -> Iterator[Row]:
    name = path_text(path.name)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(text_lines(file), 1):
                if not line.isspace():
                    yield _row(f"{name}, line {number}", line, fields)
    except Unusable as fault:
        yield Row(name, (), fault)
    except OSError as error:
        yield Row(name, (), Unusable(Fault.DAMAGED, f"{error.strerror}; make the file readable"))


def _row(where: str, line: str, fields: Sequence[str]) -> Row:
    try:
        record = msgspec.json.decode(line.encode(errors="surrogateescape"), type=dict[str, Any])
        return Row(where, tuple(_cell(record, field) for field in fields))
    except Unusable as fault:
        return Row(where, (), fault)
    except UnicodeError:
        return Row(where, (), Unusable(Fault.ENCODING, "not text in UTF-8; save the file in UTF-8"))
    except (msgspec.DecodeError, RecursionError) as error:
        return Row(where, (), Unusable(Fault.NO_OBJECT, f"{brief(error)}; write one JSON object a line"))


def _cell(record: dict[str, Any], field: str) -> str:
    """A field as the cell of a table would hold it."""
    value = record.get(field)
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return msgspec.json.encode(value).decode()
    what = "has no field" if value is None else "holds no text or number in field"
    raise Unusable(Fault.NO_OBJECT, f"it {what} {field!r}; correct it or remove the line")
