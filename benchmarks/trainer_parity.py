"""Does a federation learn the same on LiteRT as on TensorFlow? `python -m benchmarks.trainer_parity`"""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student_t

from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.demo.rerun import rerun_demo, seeds_option, settled_accuracy, sources

_FEDERATION = ("--agents", "10", "--examples-per-agent", "600", "--partition", "dirichlet:0.5", "--rounds", "30")
_CONFIDENCE = 0.95
_MOST_POINTS_APART = 0.5


class Pair(msgspec.Struct, frozen=True):
    """One seed on either trainer, both on the same data: mean accuracy of the last five rounds, a fraction, and the
    final sparsity.
    """

    seed: int
    source: str
    litert_accuracy: float
    keras_accuracy: float
    litert_sparsity: float
    keras_sparsity: float


class Parity(msgspec.Struct, frozen=True):
    """All pairs; the mean difference, litert - keras, in points, and its confidence interval (paired t)."""

    pairs: tuple[Pair, ...]
    difference_points: float
    interval_points: tuple[float, float]


@click.command(cls=Script)
@seeds_option("1,2,3,4,5", least=2)
@json_option("Write the numbers there.")
def main(seeds: tuple[int, ...], target: Path | None) -> None:
    """Run whole federations of ten agents (600 examples each, Dirichlet 0.5) for 30 rounds, on either trainer.

    Ten agents with TensorFlow take 7 GB of memory. Exits with 1 unless the mean difference in accuracy is within half
    a point and its confidence interval contains 0.
    """
    parity = compare([_pair(seed) for seed in seeds])
    write_json(parity, target)
    Console().print(_table(parity))
    apart, (low, high) = parity.difference_points, parity.interval_points
    claims = {
        f"litert - keras is {apart:+.2f} points on average, within {_MOST_POINTS_APART}": abs(apart)
        <= _MOST_POINTS_APART,
        f"{_CONFIDENCE:.0%} interval of the difference [{low:+.2f}, {high:+.2f}] contains 0": low <= 0.0 <= high,
    }
    settle(claims)


def compare(pairs: list[Pair]) -> Parity:
    """The mean of the paired differences, and the interval that Student's t gives for it; two pairs or more."""
    points = [(pair.litert_accuracy - pair.keras_accuracy) * 100 for pair in pairs]
    mean = statistics.mean(points)
    reach = float(student_t.ppf((1 + _CONFIDENCE) / 2, len(points) - 1))
    margin = reach * statistics.stdev(points) / math.sqrt(len(points))
    return Parity(tuple(pairs), mean, (mean - margin, mean + margin))


def _pair(seed: int) -> Pair:
    litert = rerun_demo(seed, *_FEDERATION, "--trainer", "litert")
    keras = rerun_demo(seed, *_FEDERATION, "--trainer", "keras")
    return Pair(
        seed=seed,
        source=litert.source,
        litert_accuracy=settled_accuracy(litert),
        keras_accuracy=settled_accuracy(keras),
        litert_sparsity=litert.model.sparsity,
        keras_sparsity=keras.model.sparsity,
    )


def _table(parity: Parity) -> Table:
    title = f"The same federation on either trainer: {sources(pair.source for pair in parity.pairs)}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for heading in ("seed", "litert", "keras", "points", "sparsity"):
        table.add_column(heading, justify="right")
    for pair in parity.pairs:
        table.add_row(
            str(pair.seed),
            f"{pair.litert_accuracy:.4f}",
            f"{pair.keras_accuracy:.4f}",
            f"{(pair.litert_accuracy - pair.keras_accuracy) * 100:+.2f}",
            f"{pair.litert_sparsity:.4f} / {pair.keras_sparsity:.4f}",
        )
    return table


if __name__ == "__main__":
    main()
