"""The tables that the benchmark prints."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.demo.rerun import sources
from benchmarks.pruning.results import Backward, Compared, Run, Shrunk, Speedup

_HEADINGS = (
    "", "seeds", "accuracy", "lost", "spread", "sparsity", "parameters", "fp32 kB", "zstd", "ms", "int8 kB", "zstd",
    "ms", "step ms", "up MB", "down MB",
)  # fmt: skip


def table_of_runs(runs: Sequence[Run]) -> Table:
    """A row for each recipe and task: means over its seeds, and the standard deviation of the points lost."""
    title = f"Federations without a network, of {sources(run.source for run in runs)}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right" if heading else "left")
    for name in dict.fromkeys(run.name for run in runs):
        own = [run for run in runs if run.name == name]
        lost = [run.points_lost for run in own]
        table.add_row(
            name,
            ",".join(f"{run.seed}{'*' if run.tuned else ''}" for run in own),
            f"{_mean(own, 'accuracy'):.4f}",
            f"{statistics.mean(lost):+.2f}",
            f"{statistics.stdev(lost):.2f}" if len(lost) > 1 else "",
            f"{_mean(own, 'sparsity'):.3f}",
            f"{_mean(own, 'parameters'):,.0f}",
            f"{_mean(own, 'bytes_tflite') / 1e3:.1f}",
            f"{_mean(own, 'bytes_tflite_compressed') / 1e3:.1f}",
            f"{_mean(own, 'p50_ms'):.3f}",
            f"{_mean(own, 'int8_bytes_tflite') / 1e3:.1f}",
            f"{_mean(own, 'int8_bytes_tflite_compressed') / 1e3:.1f}",
            f"{_mean(own, 'int8_p50_ms'):.3f}",
            f"{_mean(own, 'train_step_ms_last'):.2f}",
            f"{_mean(own, 'bytes_up') / 1e6:.1f}",
            f"{_mean(own, 'bytes_down') / 1e6:.1f}",
        )
    table.caption, table.caption_justify = "* recipes were chosen on this seed", "left"
    return table


def table_of_methods(compared: Sequence[Compared]) -> Table:
    """A row for each method: on each task the mean of the points lost to dense with the same seed, and the sparsity."""
    tasks = list(dict.fromkeys(row.task for row in compared))
    dense = {(row.task, row.seed): row.accuracy for row in compared if row.method == "dense"}
    table = Table(title="Methods at 90 %, small tasks", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    for task in tasks:
        for heading in (task, "lost", "sparsity", "up kB"):
            table.add_column(heading, justify="right")
    for method in dict.fromkeys(row.method for row in compared):
        cells = [method]
        for task in tasks:
            own = [row for row in compared if (row.method, row.task) == (method, task)]
            cells += _method_cells(own, dense) if own else [""] * 4
        table.add_row(*cells)
    return table


def _method_cells(own: Sequence[Compared], dense: Mapping[tuple[str, int], float]) -> list[str]:
    lost = [100 * (dense[row.task, row.seed] - row.accuracy) for row in own]
    return [
        f"{statistics.mean(row.accuracy for row in own):.4f}",
        f"{statistics.mean(lost):+.2f}",
        f"{statistics.mean(row.sparsity for row in own):.3f}",
        f"{statistics.mean(row.bytes_up for row in own) / 1e3:,.0f}",
    ]


def _mean(runs: Sequence[Run], field: str) -> float:
    """NaN where a run has no such number."""
    return statistics.mean(float("nan") if (value := getattr(run, field)) is None else value for run in runs)


def table_of_shrunk(smaller: Sequence[Shrunk]) -> Table:
    """A row for each round of each federation."""
    table = Table(
        title="A federation whose network loses half of its units, one thread: a device's rounds",
        title_justify="left",
        box=SIMPLE_HEAD,
        caption="Processor time of a step; memory when a round starts, and its high-water mark since then.",
        caption_justify="left",
    )
    for heading in ("network", "round", "1,000 parameters", "step ms", "held MB", "peak MB", "down kB", "up kB"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for row in smaller:
        for number, each in enumerate(row.rounds, start=1):
            table.add_row(
                row.network,
                str(number),
                f"{each.parameters / 1e3:.0f}",
                f"{each.step_ms:.2f}",
                f"{each.held_mb:.1f}",
                f"{each.peak_mb:.1f}",
                f"{each.model_bytes / 1e3:.0f}",
                f"{each.update_bytes / 1e3:.0f}",
            )
    return table


def table_of_backward(measured: Sequence[Backward]) -> Table:
    table = Table(
        title="What a step, or the product for a kernel's gradient, gains by computing less, one thread, in turns",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for heading in ("network", "", "whole ms", "less ms", "faster", "quartiles"):
        table.add_column(heading, justify="left" if heading in ("network", "") else "right")
    for row in measured:
        quartiles = f"{row.low:.2f} to {row.high:.2f}"
        table.add_row(
            row.network, row.what, f"{row.whole_ms:.2f}", f"{row.less_ms:.2f}", f"{row.median:.2f}x", quartiles
        )
    return table


def table_of_speedups(measured: Sequence[Speedup]) -> Table:
    table = Table(
        title="Half of the units removed, one thread, in turns with the whole network",
        title_justify="left",
        box=SIMPLE_HEAD,
        caption="A training graph: loss and gradients of a batch of 32, in processor time.",
        caption_justify="left",
    )
    for heading in ("network", "", "whole ms", "half ms", "faster", "quartiles", "1,000 parameters", "kB"):
        table.add_column(heading, justify="left" if heading in ("network", "") else "right")
    for row in measured:
        table.add_row(
            row.network,
            row.measured,
            f"{row.whole_ms:.3f}",
            f"{row.half_ms:.3f}",
            f"{row.median:.2f}x",
            f"{row.low:.2f} to {row.high:.2f}",
            f"{row.parameters[0] / 1e3:.0f} to {row.parameters[1] / 1e3:.0f}",
            "" if row.bytes is None else f"{row.bytes[0] / 1e3:.0f} to {row.bytes[1] / 1e3:.0f}",
        )
    return table
