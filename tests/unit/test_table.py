"""Tables in plain text."""

from __future__ import annotations

import doctest

from fedprune.system import table
from fedprune.system.table import table_lines


def test_the_example_is_true() -> None:
    results = doctest.testmod(table)
    assert results.attempted > 0
    assert results.failed == 0


def test_short_rows_are_filled_up_and_no_line_ends_in_blanks() -> None:
    assert table_lines(["a", "b", "c"], [["x"], ["y", "100", "z"]], left=(0, 2)) == [
        "a    b  c",
        "---------",
        "x",
        "y  100  z",
    ]


def test_a_table_without_rows_is_its_headings() -> None:
    assert table_lines(["a", "b"], []) == ["a  b", "----"]
