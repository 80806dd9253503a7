"""A table in plain text: commands that devices run draw theirs without a library."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def table_lines(headings: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """The headings, a rule, and the rows; columns in `left` are aligned to the left, others to the right.

    A row may be shorter than the headings: its other cells are empty.

    Example:
        >>> print(*table_lines(["name", "bytes"], [["a", "7"], ["long name", "12"]]), sep="\\n")
        name       bytes
        ----------------
        a              7
        long name     12
    """
    padded = [[*row, *[""] * (len(headings) - len(row))] for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*padded, strict=True)]
    lines = ["  ".join(map(_aligned, row, widths, [index in left for index in range(len(row))])) for row in padded]
    return [lines[0].rstrip(), "-" * len(lines[0]), *(line.rstrip() for line in lines[1:])]


def _aligned(cell: str, width: int, is_left: bool) -> str:
    return cell.ljust(width) if is_left else cell.rjust(width)
