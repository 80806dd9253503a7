"""The matrix as a picture: quality against latency, and against size."""

from __future__ import annotations

import io
from typing import Any

from benchmarks.matrix.candidates import Candidate, Matrix

_BLUE, _ORANGE, _GREY = "#2563eb", "#ea580c", "#94a3b8"


def draw(matrix: Matrix) -> bytes:
    """A PNG: the efficient files in blue, the recommended one in orange."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained", facecolor="white")
    by_latency, by_size = figure.subplots(1, 2, sharey=True)
    measured = [each for each in matrix.candidates if each.quality is not None and each.p50_ms is not None]
    _draw(by_latency, matrix, [(each, each.p50_ms or 0.0) for each in measured], "latency here, p50, ms")
    _draw(by_size, matrix, [(each, each.bytes_zstd / 1000) for each in measured], "kB, compressed with zstd")
    by_latency.set_ylabel(matrix.metric)
    figure.suptitle(f"{matrix.task}, version {matrix.version}; blue: no other file is better in all of the three")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()


def _draw(axes: Any, matrix: Matrix, points: list[tuple[Candidate, float]], label: str) -> None:
    for each, cost in points:
        axes.scatter(cost, each.quality, s=60, color=_color(each, matrix), zorder=3)
        axes.annotate(each.path, (cost, each.quality), xytext=(6, 6), textcoords="offset points", fontsize=9)
    if matrix.keras_quality is not None:
        axes.axhline(matrix.keras_quality, color=_GREY, linestyle=":", label="Keras")
        axes.legend(frameon=False)
    axes.set_xlim(left=0)
    axes.margins(0.2)
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)


def _color(each: Candidate, matrix: Matrix) -> str:
    if matrix.recommendation is not None and each.path == matrix.recommendation.path:
        return _ORANGE
    return _BLUE if each.is_efficient else _GREY
