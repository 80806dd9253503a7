"""A benchmark's report as a person sees it. Plain text: devices that measure are spared what draws tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from benchmarks.latency.results import Failed, Measured, Ratio, Report
from benchmarks.latency.this_machine import Machine
from fedprune.runtime.tflite import one_line
from fedprune.system.table import table_lines

_X86_64 = "x86_64"
_NO_GAIN = "on x86-64 no gain can be shown: XNNPACK's sparse kernels are for Arm and SSE, not for processors with AVX"


def render(report: Report) -> str:
    """The table, and under it the machine, whether sparse kernels run, and what disturbed the measurement; in colours
    for a terminal."""
    threads = ", ".join(map(str, report.num_threads))
    runs = f"{_count(report.num_runs, 'run')}, {threads} thread{'' if report.num_threads == (1,) else 's'}"
    title = f"Latency in ms, peak memory in MB: {runs}, {report.runtime}"
    machine = click.style(_describe(report.machine), dim=True)
    notes = [click.style(note, fg="yellow") for note in _notes(report)]
    return "\n".join([title, "", *_table(report), "", *_inputs(report), *_sparse_kernels(report), machine, *notes])


def _table(report: Report) -> list[str]:
    """The lines: names to the left, numbers to the right."""
    columns: list[tuple[str, Callable[[Measured], str], bool]] = [
        ("threads", lambda row: str(row.num_threads), len(report.num_threads) > 1),
        *((heading, cell, True) for heading, cell in _COLUMNS),
        ("vs first", lambda row: ratio_text(row.ratio), any(row.ratio for row in report.measured)),
        (
            f"vs {report.num_threads[0]} thr.",
            lambda row: ratio_text(row.scaling),
            any(row.scaling for row in report.measured),
        ),
    ]
    shown = [(heading, cell) for heading, cell, is_shown in columns if is_shown]
    rows = [
        [name, "failed"] if isinstance(row, Failed) else [name, *(cell(row) for _, cell in shown)]
        for name, row in zip(names([row.path for row in report.models]), report.models, strict=True)
    ]
    head, rule, *lines = table_lines(["model", *(heading for heading, _ in shown)], rows)
    failed = (isinstance(row, Failed) for row in report.models)
    return [
        head,
        rule,
        *(click.style(line, fg="red") if red else line for line, red in zip(lines, failed, strict=True)),
    ]


def _inputs(report: Report) -> list[str]:
    """The inputs' shapes that were measured, once where all models have the same."""
    measured = _by_name(report)
    shapes = {name: _shapes(row) for name, row in measured.items()}
    if len(set(shapes.values())) == 1:
        return [f"Input: {next(iter(shapes.values()))}"]
    return [f"Input of {name}: {shape}" for name, shape in shapes.items()]


def _sparse_kernels(report: Report) -> list[str]:
    """Whether pruning can make the models faster here, for those whose 1x1 convolutions have zeros."""
    lines = []
    for name, row in _by_name(report).items():
        found = row.sparse_kernels
        if found is not None and found.qualifies:
            here = _NO_GAIN if report.machine.architecture == _X86_64 else "XNNPACK takes sparse kernels for it"
            lines.append(f"Sparse kernels for {name}: it qualifies ({found.zeros:.0%} zeros); {here}")
        elif found is not None and found.zeros:
            here = f"; {_NO_GAIN}" if report.machine.architecture == _X86_64 else ""
            lines.append(f"Sparse kernels for {name}: no; {'; '.join(found.changes)}{here}")
    return lines


def _by_name(report: Report) -> dict[str, Measured]:
    """A row of each model that ran: what does not depend on threads."""
    named = zip(names([row.path for row in report.models]), report.models, strict=True)
    return {name: row for name, row in named if isinstance(row, Measured)}


def _shapes(row: Measured) -> str:
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in row.input_shapes) or "none"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


def digits(milliseconds: float) -> str:
    """Three digits, or as many as there are before the point; microseconds at least."""
    return f"{milliseconds:.{3 if milliseconds < 1 else 2 if milliseconds < 10 else 1 if milliseconds < 100 else 0}f}"


def ratio_text(ratio: Ratio | None) -> str:
    """The ratio and half of its interval's width."""
    return "" if ratio is None else f"{ratio.median:.2f} ±{(ratio.high - ratio.low) / 2:.2f}"


def names(paths: Sequence[str]) -> list[str]:
    """File names where they tell the models apart, else the paths as given."""
    files = [Path(path).name for path in paths]
    return [one_line(name) for name in (files if len(set(files)) == len(set(paths)) else paths)]


def _describe(machine: Machine) -> str:
    cpu = f"{machine.cpu or 'unknown CPU'}, {_count(machine.cores, 'core')}"
    python = f"Python {machine.python} ({machine.python_bits}-bit)"
    return ", ".join(part for part in (machine.board, cpu, machine.architecture, machine.os, python) if part)


def _notes(report: Report) -> list[str]:
    notes = [f"Not to be trusted ({flag.disturbance}): {flag.told}." for flag in report.flags]
    governor = report.conditions.before.governor
    if governor not in (None, "performance"):
        notes.append(f"The CPU governor is {governor}; `performance` gives steadier latencies.")
    return notes


_COLUMNS: tuple[tuple[str, Callable[[Measured], str]], ...] = (
    ("kB", lambda row: f"{row.bytes / 1000:,.0f}"),
    ("init", lambda row: digits(row.init_ms)),
    ("min", lambda row: digits(row.latency_ms.min)),
    ("p50", lambda row: digits(row.latency_ms.p50)),
    ("p90", lambda row: digits(row.latency_ms.p90)),
    ("p99", lambda row: digits(row.latency_ms.p99)),
    ("mean", lambda row: digits(row.latency_ms.mean)),
    ("std", lambda row: digits(row.latency_ms.std)),
    ("MB", lambda row: f"{row.peak_memory_mb:.1f}"),
)
