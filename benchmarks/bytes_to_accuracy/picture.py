"""The runs as a picture: accuracy against bytes."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence

from benchmarks.bytes_to_accuracy.records import Run, means

_COLOURS = ("#94a3b8", "#475569", "#2563eb", "#ea580c", "#16a34a", "#9333ea", "#dc2626", "#0891b2", "#ca8a04")


def draw(runs: Sequence[Run]) -> bytes:
    """A PNG: for each run the mean accuracy of its last five rounds against the bytes so far, on a log scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained", facecolor="white")
    axes = figure.subplots()
    names = list(dict.fromkeys(run.name for run in runs))
    for run in runs:
        sent = [value / 1e6 for value in itertools.accumulate(run.bytes_by_round)]
        index = names.index(run.name)
        first = run is next(each for each in runs if each.name == run.name)
        colour = _COLOURS[index % len(_COLOURS)]
        axes.plot(sent, means(run.accuracies), color=colour, alpha=0.8, lw=1.2, label=run.name if first else None)
    axes.set_xscale("log")
    axes.set_xlabel("MB of all agents both ways, from the first round on")
    axes.set_ylabel("test accuracy, mean of five rounds")
    axes.set_ylim(bottom=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()
