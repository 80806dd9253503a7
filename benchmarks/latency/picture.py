"""A history of benchmarks as a picture: medians over time, with what was disturbed marked."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from benchmarks.latency.results import Report
from fedprune.errors import StorageError
from fedprune.runtime.tflite import one_line

_MOST_LINES = 12
"""Models on numbers of threads that are drawn, the newest ones: more cannot be told apart."""


def draw_history(reports: Sequence[Report], path: Path) -> None:
    """The median latency of each model over time, its 90th percentile as a bar, disturbed ones hollow. Raises
    `StorageError` where the file cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    for name, points in _lines(reports).items():
        times, p50, p90, trusted = zip(*points, strict=True)
        (line,) = axes.plot(times, p50, label=name)
        axes.vlines(times, p50, p90, color=line.get_color(), alpha=0.4)
        faces = [line.get_color() if sure else "white" for sure in trusted]
        axes.scatter(times, p50, color=faces, edgecolor=line.get_color(), zorder=3)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("ms, p50 and up to p90")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    axes.set_title("Latency over time; hollow: the measurement was disturbed", loc="left")
    figure.autofmt_xdate()
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: {error}; name a .png that can be written") from error


_Point = tuple[datetime, float, float, bool]


def _lines(reports: Sequence[Report]) -> dict[str, list[_Point]]:
    lines: dict[str, list[_Point]] = {}
    for report in reports:
        for row in report.measured:
            name = (
                f"{one_line(Path(row.path).name)}, {row.num_threads} threads"
                if row.num_threads > 1
                else one_line(Path(row.path).name)
            )
            point = (report.time, row.latency_ms.p50, row.latency_ms.p90, not report.flags)
            lines.setdefault(name, []).append(point)
    newest = sorted(lines, key=lambda name: lines[name][-1][0])[-_MOST_LINES:]
    return {name: points for name, points in lines.items() if name in newest}
