"""The picture of a demo: what a person looks at instead of result.json."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

from benchmarks.demo.result import DemoResult

_BLUE, _ORANGE, _GREEN, _GREY = "#2563eb", "#ea580c", "#16a34a", "#94a3b8"


def draw(result: DemoResult, path: Path) -> None:
    """Accuracy and sparsity by round, bytes by round, sizes and latencies of the exports, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.2), layout="constrained", facecolor="white")
    learning, traffic, sizes, latencies = figure.subplots(2, 2).flat
    _draw_learning(learning, result)
    _draw_traffic(traffic, result)
    names = [export.format for export in result.exports]
    _draw_sizes(sizes, result, names)
    p50 = [export.p50_ms or 0.0 for export in result.exports]
    _draw_bars(latencies, names, p50, "{:.3f}", _GREEN)
    latencies.set_title("Latency on this machine, p50 of one image", loc="left")
    latencies.set_ylabel("ms")
    for axes in (learning, traffic, sizes, latencies):
        axes.spines[["top", "right"]].set_visible(axes is learning)
    figure.suptitle(
        f"Accuracy {result.model.accuracy:.3f} with {result.model.sparsity:.0%} of the kernels pruned\n"
        f"{result.rounds[-1].agents} agents, {len(result.rounds)} rounds, {result.source}",
        fontsize=13,
    )
    figure.savefig(path, dpi=110)


def _draw_learning(axes: Any, result: DemoResult) -> None:
    rounds = [entry.round for entry in result.rounds]
    axes.plot(rounds, [entry.accuracy for entry in result.rounds], color=_BLUE, marker="o", ms=4, label="accuracy")
    axes.set_ylim(0, 1)
    axes.set_xlabel("round")
    axes.set_ylabel("test accuracy", color=_BLUE)
    other = axes.twinx()
    other.plot(rounds, [entry.sparsity for entry in result.rounds], color=_ORANGE, drawstyle="steps-mid")
    other.set_ylim(0, 1)
    other.set_ylabel("sparsity of the kernels", color=_ORANGE)
    other.spines[["top"]].set_visible(False)
    axes.set_title("What was learned while it was pruned", loc="left")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _draw_traffic(axes: Any, result: DemoResult) -> None:
    rounds = [entry.round for entry in result.rounds]
    sent = list(accumulate((entry.bytes_up + entry.bytes_down) / 1e6 for entry in result.rounds))
    dense = list(accumulate(2 * 4e-6 * result.model.parameters * entry.agents for entry in result.rounds))
    axes.plot(rounds, dense, color=_GREY, marker="o", ms=4, label="dense fp32 weights alone")
    axes.plot(rounds, sent, color=_BLUE, marker="o", ms=4, label=f"this run: {dense[-1] / sent[-1]:.1f} times fewer")
    axes.set_yscale("log")
    axes.set_xlabel("round")
    axes.set_ylabel("MB")
    axes.set_title("MQTT payload so far, all agents, up and down", loc="left")
    axes.legend(frameon=False)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _draw_sizes(axes: Any, result: DemoResult, names: list[str]) -> None:
    raw = [export.bytes / 1000 for export in result.exports]
    compressed = [export.bytes_compressed / 1000 for export in result.exports]
    _draw_bars(axes, names, raw, "{:.0f}", _GREY, -0.2, "raw")
    _draw_bars(axes, names, compressed, "{:.0f}", _ORANGE, 0.2, "zstd")
    axes.set_title("Size of the exports", loc="left")
    axes.set_ylabel("kB")
    axes.legend(frameon=False)


def _draw_bars(
    axes: Any, names: list[str], heights: list[float], text: str, color: str, offset: float = 0.0, label: str = ""
) -> None:
    width = 0.4 if offset else 0.6
    positions = [index + offset for index in range(len(names))]
    bars = axes.bar(positions, heights, width, color=color, label=label)
    axes.bar_label(bars, [text.format(height) for height in heights], fontsize=9)
    axes.set_xticks(range(len(names)), names)
