"""A benchmark's report as a person sees it. Plain text: devices that measure are spared what draws tables."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.latency.results import Failed, Measured, Ratio, Report
from benchmarks.latency.this_machine import Machine
from fedprune.runtime.tflite import one_line
from fedprune.system.table import table_lines

_HEADINGS = ("model", "kB", "init", "min", "p50", "p90", "p99", "mean", "std", "MB")


def render(report: Report) -> str:
    """The table, and under it the machine and what may have disturbed the measurement; in colours for a terminal."""
    runs = f"{_count(report.num_runs, 'run')}, {_count(report.num_threads, 'thread')}"
    title = f"Latency in ms, peak memory in MB: {runs}, {report.runtime}"
    machine = click.style(_describe(report.machine), dim=True)
    disturbances = [click.style(note, fg="yellow") for note in _disturbances(report.machine)]
    return "\n".join([title, "", *_table(report), "", *_inputs(report), machine, *disturbances])


def _table(report: Report) -> list[str]:
    """The lines: names to the left, numbers to the right."""
    compared = any(isinstance(row, Measured) and row.ratio for row in report.models)
    headings = [*_HEADINGS, "vs first"] if compared else [*_HEADINGS]
    rows = [
        [name, "failed"] if isinstance(row, Failed) else [name, *_cells(row, compared)]
        for name, row in zip(_names(report), report.models, strict=True)
    ]
    head, rule, *lines = table_lines(headings, rows)
    failed = (isinstance(row, Failed) for row in report.models)
    return [
        head,
        rule,
        *(click.style(line, fg="red") if red else line for line, red in zip(lines, failed, strict=True)),
    ]


def _inputs(report: Report) -> list[str]:
    """The inputs' shapes that were measured, once where all models have the same."""
    measured = [
        (name, _shapes(row))
        for name, row in zip(_names(report), report.models, strict=True)
        if isinstance(row, Measured)
    ]
    if len({shapes for _, shapes in measured}) == 1:
        return [f"Input: {measured[0][1]}"]
    return [f"Input of {name}: {shapes}" for name, shapes in measured]


def _shapes(row: Measured) -> str:
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in row.input_shapes) or "none"


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
