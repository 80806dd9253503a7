"""The matrix as a picture: quality against latency, and against size."""

from __future__ import annotations

import io
from typing import Any

from benchmarks.matrix.candidates import Candidate, Matrix, Model

_BLUE, _ORANGE, _GREY = "#2563eb", "#ea580c", "#94a3b8"
_MARKERS = "osD^vP*X"
"""The formats' shapes in the picture, in their order: names beside points would hide one another."""


def draw(matrix: Matrix) -> bytes:
    """A PNG, better is higher: the efficient files in blue, the recommended one in orange. Of a masked model beside a
    slimmed one the points are hollow."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained", facecolor="white")
    by_latency, by_size = figure.subplots(1, 2, sharey=True)
    measured = [each for each in matrix.candidates if each.quality is not None and each.p50_ms is not None]
    _draw(by_latency, matrix, [(each, each.p50_ms or 0.0) for each in measured], "latency here, p50, ms")
    _draw(by_size, matrix, [(each, each.bytes_zstd / 1000) for each in measured], "kB, compressed with zstd")
    by_latency.set_ylabel(matrix.metric)
    if any(each.goodness != each.quality for each in measured):
        by_latency.invert_yaxis()
    by_size.legend(frameon=False, bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.suptitle(
        f"{matrix.task}, version {matrix.version}; orange is recommended; nothing beats blue in all three at once"
    )
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()


def _draw(axes: Any, matrix: Matrix, points: list[tuple[Candidate, float]], label: str) -> None:
    formats = list(dict.fromkeys(each.format for each in matrix.candidates))
    for each, cost in points:
        marker, color = _MARKERS[formats.index(each.format) % len(_MARKERS)], _color(each, matrix)
        filling = "none" if each.model is Model.MASKED and len(matrix.parameters) > 1 else color
        axes.scatter(
            cost,
            each.quality,
            s=70,
            marker=marker,
            edgecolors=color,
            facecolors=filling,
            alpha=0.8,
            zorder=3,
            label=each.path,
        )
    if matrix.keras_quality is not None:
        axes.axhline(matrix.keras_quality, color=_GREY, linestyle=":", label="Keras")
    axes.margins(0.2)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)


def _color(each: Candidate, matrix: Matrix) -> str:
    if matrix.recommendation is not None and each.path == matrix.recommendation.path:
        return _ORANGE
    return _BLUE if each.is_efficient else _GREY
