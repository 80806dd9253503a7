"""A picture of the load: what a round costs against the size of the fleet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.load.row import Row

_COLOURS = ("#2563eb", "#ea580c", "#16a34a")


def draw(rows: Sequence[Row], path: Path) -> None:
    """Seconds of a round, processor time of an update, memory of the aggregator and fsyncs, by agents, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.2), layout="constrained", facecolor="white")
    seconds, processor, memory, syncs = figure.subplots(2, 2).flat
    _draw(seconds, rows, lambda row: row.round_seconds, "A round", "s")
    _draw(processor, rows, lambda row: 1000 * row.aggregator_cpu_s / row.agents, "The aggregator, for an update", "ms")
    _draw(memory, rows, lambda row: row.aggregator_peak_mb, "The aggregator's peak memory", "MB")
    _draw(syncs, rows, lambda row: row.fsyncs / row.agents, "fsyncs for an update", "")
    figure.savefig(path, dpi=110)


def _draw(axes: Any, rows: Sequence[Row], figure_of: Callable[[Row], float], title: str, unit: str) -> None:
    for load, colour in zip(sorted({row.load for row in rows}), _COLOURS, strict=False):
        points = sorted((row.agents, figure_of(row)) for row in rows if row.load == load)
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", ms=4, label=load)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("agents")
    axes.set_ylabel(unit)
    axes.set_title(title, loc="left")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
