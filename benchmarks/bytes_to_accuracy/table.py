"""The runs as tables: each one, and each recipe over its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.bytes_to_accuracy.recipes import DENSE
from benchmarks.bytes_to_accuracy.records import Flower, Run, total


def tables(runs: Sequence[Run], flower: Flower | None) -> list[Table | str]:
    """`runs` are of one arrangement, with the dense one of each seed."""
    dense = {run.seed: run for run in runs if run.name == DENSE.name}
    found: list[Table | str] = [_of_runs(runs, dense), _of_recipes(runs, dense)]
    return found if flower is None else [*found, _of_flower(flower)]


def _of_flower(flower: Flower) -> str:
    up, down = flower.bytes_up / 1000, flower.bytes_down / 1000
    return f"Flower {flower.version}, dense: {up:,.0f} kB up and {down:,.0f} kB down, a node and round, on sockets"


def _of_runs(runs: Sequence[Run], dense: dict[int, Run]) -> Table:
    table = _table("Bytes of all agents both ways, payload", "seed", "accuracy", "sparsity", "up kB", "down kB")
    for heading in ("control kB", "whole run", "to target"):
        table.add_column(heading, justify="right")
    for run in runs:
        to_target = ratio_to_target(run, dense[run.seed])
        table.add_row(
            run.name,
            str(run.seed),
            f"{run.accuracy_final:.4f}",
            f"{run.sparsity:.2f}",
            f"{total(run.bytes_up) / 1000:,.0f}",
            f"{total(run.bytes_down) / 1000:,.0f}",
            f"{(run.bytes_up['control'] + run.bytes_down['control']) / 1000:,.0f}",
            f"{dense[run.seed].bytes_total / run.bytes_total:.1f}x",
            "never" if to_target is None else f"{to_target:.1f}x",
        )
    return table


def _of_recipes(runs: Sequence[Run], dense: dict[int, Run]) -> Table:
    """Means over seeds, and the least and the most."""
    table = _table("Over seeds", "seeds", "accuracy", "less than dense, points", "whole run", "to target", "never")
    for name in dict.fromkeys(run.name for run in runs):
        of_name = [run for run in runs if run.name == name]
        lost = [100 * (dense[run.seed].accuracy_final - run.accuracy_final) for run in of_name]
        ratios = [ratio_to_target(run, dense[run.seed]) for run in of_name]
        table.add_row(
            name,
            str(len(of_name)),
            f"{statistics.mean(run.accuracy_final for run in of_name):.4f}",
            _spread(lost, "+.2f"),
            _spread([dense[run.seed].bytes_total / run.bytes_total for run in of_name], ".0f"),
            _spread([each for each in ratios if each is not None], ".0f"),
            str(ratios.count(None)),
        )
    return table


def ratio_to_target(run: Run, dense: Run) -> float | None:
    """The bytes of dense federated averaging until the target over those of `run`; None if it never was there."""
    if run.bytes_to_target is None or dense.bytes_to_target is None:
        return None
    return dense.bytes_to_target / run.bytes_to_target


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("recipe")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _spread(values: Sequence[float], form: str) -> str:
    """Mean, least and most."""
    if not values:
        return "-"
    return f"{statistics.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"
