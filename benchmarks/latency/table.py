"""A benchmark's report as a person sees it."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.latency.machine import Machine
from benchmarks.latency.results import Failed, Measured, Ratio, Report
from fedprune.tflite import one_line


def render(report: Report) -> RenderableType:
    """The table, and under it the machine and what may have disturbed the measurement."""
    machine = Text(_describe(report.machine), "dim")
    return Group(_table(report), machine, *(Text(note, "yellow") for note in _disturbances(report.machine)))


def _table(report: Report) -> Table:
    runs = f"{_count(report.num_runs, 'run')}, {_count(report.num_threads, 'thread')}"
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 0),
        title=Text(f"Latency in ms: {runs}, {report.runtime}"),
    )
    table.add_column("model", overflow="fold", min_width=12)
    for heading in ("kB", "init", "min", "p50", "p90", "p99", "mean", "std", "peak\nMB"):
        table.add_column(heading, justify="right", no_wrap=True)
    compared = any(isinstance(row, Measured) and row.ratio for row in report.models)
    if compared:
        table.add_column("vs first", justify="right", no_wrap=True)
    for name, row in zip(_names(report), report.models, strict=True):
        cells = ["failed"] if isinstance(row, Failed) else _cells(row, compared)
        table.add_row(Text(name), *cells, style="red" if isinstance(row, Failed) else None)
    return table


def _cells(row: Measured, compared: bool) -> list[str]:
    latency = row.latency_ms
    times = [row.init_ms, latency.min, latency.p50, latency.p90, latency.p99, latency.mean, latency.std]
    cells = [f"{row.bytes / 1000:,.0f}", *map(_digits, times), f"{row.peak_memory_mb:.1f}"]
    return [*cells, _ratio(row.ratio)] if compared else cells


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


def _digits(milliseconds: float) -> str:
    """Three digits, or as many as there are before the point; microseconds at least."""
    return f"{milliseconds:.{3 if milliseconds < 1 else 2 if milliseconds < 10 else 1 if milliseconds < 100 else 0}f}"


def _ratio(ratio: Ratio | None) -> str:
    """The median ratio and half of what the quartiles span."""
    return "" if ratio is None else f"{ratio.median:.2f} ±{(ratio.high - ratio.low) / 2:.2f}"


def _names(report: Report) -> list[str]:
    """File names where they tell the models apart, else the paths as given."""
    paths = [row.path for row in report.models]
    names = [Path(path).name for path in paths]
    return [one_line(name) for name in (names if len(set(names)) == len(set(paths)) else paths)]


def _describe(machine: Machine) -> str:
    cpu = f"{machine.cpu or 'unknown CPU'}, {_count(machine.cores, 'core')}"
    python = f"Python {machine.python} ({machine.python_bits}-bit)"
    return ", ".join(part for part in (machine.board, cpu, machine.architecture, machine.os, python) if part)


def _disturbances(machine: Machine) -> list[str]:
    notes = []
    if machine.throttling:
        notes.append(f"The board reports {', '.join(machine.throttling)}: latencies may be too long.")
    if machine.governor not in (None, "performance"):
        notes.append(f"The CPU governor is {machine.governor}; `performance` gives steadier latencies.")
    return notes
