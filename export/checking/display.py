"""A check for people to read."""

from __future__ import annotations

import textwrap

import click

from export.checking.check import Check, DeviceRow, Verdict
from fedprune.runtime.tflite import one_line
from fedprune.system.table import table_lines

_WIDTH = 110
_COLOURS: dict[Verdict, str] = {"good": "green", "look": "yellow", "fails": "red"}


def show(check: Check) -> None:
    """Print the check to standard output."""
    click.echo(f"task {one_line(check.task)}\n")
    width = max(len(finding.what) for finding in check.findings)
    for finding in check.findings:
        head = f"{click.style(f'{finding.verdict:<5}', fg=_COLOURS[finding.verdict])}  {finding.what:<{width}}  "
        first, *rest = textwrap.wrap(_plain(finding.says), _WIDTH - width - 9) or [""]
        click.echo(head + first)
        for line in rest:
            click.echo(" " * (width + 9) + line)
    if check.bytes_a_round is not None:
        up, down = check.bytes_a_round.up / 1000, check.bytes_a_round.down / 1000
        sparsity = check.bytes_a_round.sparsity
        click.echo(f"\nbytes an agent and round, at sparsity {sparsity:.2f}: {up:,.1f} kB up, {down:,.1f} kB down")
    if check.devices:
        headings = ["device", "", "batch", "memory MB", "step ms", "round s", ""]
        click.echo()
        click.echo("\n".join(table_lines(headings, [_cells(row) for row in check.devices], left=(0, 1, 6))))
        click.echo("\n" + textwrap.fill(f"Estimates: {check.basis}.", _WIDTH))


def _plain(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))


def _cells(row: DeviceRow) -> list[str]:
    step = "–" if row.step_s is None else f"{1000 * row.step_s:,.1f}"
    whole = "–" if row.round_s is None else f"{row.round_s:,.1f}"
    return [row.device, row.verdict, str(row.batch_size or "–"), f"{row.memory_mb:,.0f}", step, whole, row.says]
