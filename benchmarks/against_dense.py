"""The demo against the same run dense: accuracy, uplink bytes, overhead. `python -m benchmarks.against_dense`."""

from __future__ import annotations

import statistics
from pathlib import Path

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.demo.rerun import rerun_demo, seeds_option, settled_accuracy, sources
from benchmarks.demo.result import DemoResult
from benchmarks.federation import DENSE_CODEC
from fedprune.errors import ExportError

_DENSE = ("--sparsity", "0", "--codec", DENSE_CODEC)

_MOST_POINTS_LOST = 2.0
_LEAST_BYTES_RATIO = 8.0
_MOST_OVERHEAD_S = 0.5
_MOST_INT8_POINTS_LOST = 1.0


class Pair(msgspec.Struct, frozen=True):
    """One seed, pruned and dense, on the same data. Accuracies are means of the last five rounds; overhead is a median
    over rounds.
    """

    seed: int
    source: str
    pruned_accuracy: float
    dense_accuracy: float
    uplink_ratio: float
    overhead_s: float
    federation_s: float
    sparsity: float
    int8_points_lost: float


@click.command(cls=Script)
@seeds_option("1,2,3")
@json_option("Write the pairs there.")
def main(seeds: tuple[int, ...], target: Path | None) -> None:
    """Run the default demo and the same run dense for several seeds, and check what docs/MEASURED.md claims of them."""
    pairs = [_pair(seed) for seed in seeds]
    write_json(pairs, target)
    Console().print(_table(pairs))
    points_lost = statistics.mean(pair.dense_accuracy - pair.pruned_accuracy for pair in pairs) * 100
    claims = {
        f"mean accuracy lost {points_lost:.2f} points, at most {_MOST_POINTS_LOST}": points_lost <= _MOST_POINTS_LOST,
        f"uplink at least {_LEAST_BYTES_RATIO}x smaller": min(p.uplink_ratio for p in pairs) >= _LEAST_BYTES_RATIO,
        f"overhead at most {_MOST_OVERHEAD_S} s": max(p.overhead_s for p in pairs) <= _MOST_OVERHEAD_S,
        f"int8 within {_MOST_INT8_POINTS_LOST} point": max(p.int8_points_lost for p in pairs) <= _MOST_INT8_POINTS_LOST,
    }
    settle(claims)


def _pair(seed: int) -> Pair:
    pruned, dense = rerun_demo(seed), rerun_demo(seed, *_DENSE)
    return Pair(
        seed=seed,
        source=pruned.source,
        pruned_accuracy=settled_accuracy([entry.accuracy for entry in pruned.rounds]),
        dense_accuracy=settled_accuracy([entry.accuracy for entry in dense.rounds]),
        uplink_ratio=sum(entry.bytes_up for entry in dense.rounds) / sum(entry.bytes_up for entry in pruned.rounds),
        overhead_s=statistics.median(entry.seconds - entry.train_seconds for entry in pruned.rounds),
        federation_s=sum(entry.seconds for entry in pruned.rounds),
        sparsity=pruned.model.sparsity,
        int8_points_lost=(_exported_accuracy(pruned, "fp32") - _exported_accuracy(pruned, "int8")) * 100,
    )


def _exported_accuracy(result: DemoResult, form: str) -> float:
    (accuracy,) = (export.accuracy for export in result.exports if export.format == form)
    if accuracy is None:
        raise ExportError(f"{form}: no runtime here runs the exported file")
    return accuracy


def _table(pairs: list[Pair]) -> Table:
    title = f"The default demo against the same run dense: {sources(pair.source for pair in pairs)}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for heading in ("seed", "pruned", "dense", "points", "uplink", "overhead s", "total s", "sparsity"):
        table.add_column(heading, justify="right")
    for pair in pairs:
        table.add_row(
            str(pair.seed),
            f"{pair.pruned_accuracy:.3f}",
            f"{pair.dense_accuracy:.3f}",
            f"{(pair.pruned_accuracy - pair.dense_accuracy) * 100:+.2f}",
            f"{pair.uplink_ratio:.1f}x",
            f"{pair.overhead_s:.2f}",
            f"{pair.federation_s:.1f}",
            f"{pair.sparsity:.4f}",
        )
    return table


if __name__ == "__main__":
    main()
