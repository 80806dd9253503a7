"""The command of `python -m benchmarks.pruning`."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import click
import msgspec
from rich.console import Console

from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option
from benchmarks.demo.rerun import seeds_option
from benchmarks.pruning.backward import backward_costs, pruned_gradients
from benchmarks.pruning.claims import claims_of, claims_of_shrunk
from benchmarks.pruning.methods import METHODS, compare_methods
from benchmarks.pruning.records import Result, dense_accuracy, earlier, methods_left, plan, rounds_of, save
from benchmarks.pruning.rounds import shrunk
from benchmarks.pruning.runs import run_recipe
from benchmarks.pruning.speed import speedups
from benchmarks.pruning.tables import (
    table_of_backward,
    table_of_methods,
    table_of_runs,
    table_of_shrunk,
    table_of_speedups,
)
from benchmarks.pruning.tasks import METHOD_TASKS

_NETWORKS = ("CNN-108k", "MobileNetV1-like")
_STEPS = {"CNN-108k": 40, "MobileNetV1-like": 6}
"""Of a round of the federation that loses units, by network, and of a comparison of backward passes."""
_WIDTH = 170
_METHOD_SEEDS = 3
"""Seeds that methods are compared with."""


@click.command(cls=Script)
@seeds_option("3,4,5,1,2")
@click.option("--quick", is_flag=True, help="Four recipes, one seed, twelve rounds, and few measurements.")
@click.option("--resume", is_flag=True, help="Go on with the runs that the file of --json holds.")
@json_option("Write the numbers there, again after each run.")
def main(seeds: tuple[int, ...], quick: bool, resume: bool, target: Path | None) -> None:
    """Compare recipes of pruning with dense federations, on data of theirs, in this process; measure two networks
    with half of their units, or with frozen layers, against the whole ones, in turns, on one thread."""
    result = earlier(target, quick=quick) if resume else Result(quick)
    for task, name, seed in plan(seeds, quick=quick):
        if result.find(task, name, seed) is None:
            click.echo(f"{task}, {name}, seed {seed} ...", err=True)
            compared_with = dense_accuracy(result, task, name, seed)
            run = run_recipe(task, name, seed, rounds_of(task, quick=quick), compared_with)
            result = msgspec.structs.replace(result, runs=(*result.runs, run))
            save(result, target)
    for seed, task in () if quick else product(seeds[:_METHOD_SEEDS], METHOD_TASKS):
        if left := methods_left(result, task, seed, METHODS):
            click.echo(f"{task}, methods, seed {seed} ...", err=True)
            for compared in compare_methods(task, seed, left):
                result = msgspec.structs.replace(result, compared=(*result.compared, compared))
                save(result, target)
    if not result.speedups:
        inferences, steps = (50, 10) if quick else (500, 60)
        measured = tuple(row for name in _NETWORKS for row in speedups(name, inferences, steps))
        result = msgspec.structs.replace(result, speedups=measured)
        save(result, target)
    if not result.shrunk:
        smaller = tuple(shrunk(name, steps) for name, steps in _STEPS.items())
        result = msgspec.structs.replace(result, shrunk=smaller)
        save(result, target)
    if not result.backward:
        costs = [row for name, steps in _STEPS.items() for row in backward_costs(name, steps)]
        result = msgspec.structs.replace(result, backward=(*costs, *pruned_gradients(_STEPS["CNN-108k"])))
        save(result, target)
    console = Console(width=_WIDTH)
    console.print(table_of_speedups(result.speedups), table_of_shrunk(result.shrunk), table_of_runs(result.runs))
    console.print(table_of_backward(result.backward))
    if result.compared:
        console.print(table_of_methods(result.compared))
    settle(claims_of(result.runs, result.speedups, quick=quick) | claims_of_shrunk(result.shrunk))
