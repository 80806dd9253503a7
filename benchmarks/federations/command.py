"""Federations of ordinary networks, on either trainer and pruned: `python -m benchmarks.federations`"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.demo.rerun import seeds_option, settled_accuracy
from benchmarks.federation import DENSE_CODEC
from benchmarks.federations.figures import CONFIDENCE, Figures, Learned, Pair, Parity, TaskPair, compare
from benchmarks.federations.run import Run, Site, site
from benchmarks.federations.scenarios import LEARNED, PAIRED, TASKS, Scenario
from fedprune.codecs import DEFAULT_CODEC

_SPARSITY = 0.8
_EARLY_ROUNDS = 10
_MOST_POINTS_APART = 1.0
_MOST_POINTS_APART_IN_TASKS = 2.0
"""Of one pair, with the first seed: eight agents with TensorFlow take long."""
_LEARNED_SEEDS = 3
"""What is learned on LiteRT alone is run with the first so many seeds: people who took no part differ much."""
_LEAST_TELLING, _MOST_TELLING = 0.5, 0.97
"""Two trainers that both answer at random agree, and so do two that make no mistake: neither says anything."""


def _names(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    known = [*(f"pairs:{name}" for name in PAIRED), *(f"tasks:{name}" for name in TASKS), *LEARNED]
    names = tuple(known if value is None else filter(None, value.split(",")))
    if unknown := [name for name in names if name not in known]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(known)}")
    return names


@click.command(cls=Script)
@seeds_option("21,22,23,24,25", least=2)
@click.option("--only", "names", callback=_names, metavar="NAME,…", help="These alone: pairs:cnn-108k, window-cnn, …")
@json_option("Write the numbers there.")
def main(seeds: tuple[int, ...], names: tuple[str, ...], target: Path | None) -> None:
    """Run federations with a broker, an aggregator and agents as processes, 80 % pruned as the demo's.

    Pairs with the same seed on LiteRT and on TensorFlow: a CNN (Fashion-MNIST), a 1-D CNN with BatchNormalization
    (accelerometer windows), a DS-CNN (spectrograms), a GRU and a small Transformer (sentences). One pair each with
    eight agents: a text task from JSONL files, and a speech task from recordings. On LiteRT alone, with three seeds:
    the 1-D CNN with 24 agents, tested on people who took no part, and a MobileNet on images of 96 x 96, each beside the
    same run dense and beside central training. The CNN's data are real, the others are made here. Takes 7 GB of memory.
    Exits with 1 if a claim does not hold.
    """
    began = time.monotonic()
    parities: list[Parity] = []
    tasks: list[TaskPair] = []
    learned: list[Learned] = []
    for name in names:
        kind, _, member = name.rpartition(":")
        if kind == "pairs":
            parities.append(compare(member, [_pair(member, PAIRED[member], seed) for seed in seeds]))
        elif kind == "tasks":
            tasks.append(TaskPair(member, TASKS[member].agents, _pair(member, TASKS[member], seeds[0])))
        else:
            learned += [_learned(name, seed) for seed in seeds[:_LEARNED_SEEDS]]
        figures = Figures(tuple(parities), tuple(tasks), tuple(learned), round(time.monotonic() - began, 1))
        write_json(figures, target)  # what there is, should this be interrupted
    tables = [_pairs_table(f"{parity.network}, on either trainer", parity.pairs) for parity in parities]
    tables += [_pairs_table(f"{task.task}, {task.agents} agents with either trainer", [task.pair]) for task in tasks]
    Console().print(*tables, *([_learned_table(learned)] if learned else []))
    click.echo(f"{time.monotonic() - began:.0f} s in all")
    settle(claims(figures))


def claims(figures: Figures) -> dict[str, bool | None]:
    found: dict[str, bool | None] = {}
    for parity in figures.parities:
        low, high = parity.interval_points
        found[
            f"{parity.network}: {CONFIDENCE:.0%} interval of litert - keras, {low:+.2f} to {high:+.2f} points, "
            f"is within {_MOST_POINTS_APART:g} point"
        ] = max(-low, high) <= _MOST_POINTS_APART
        found |= _telling(parity.network, parity.accuracy)
    for task in figures.tasks:
        points = task.pair.points
        found[
            f"{task.task} with {task.agents} agents: litert - keras, {points:+.2f} points, "
            f"is within {_MOST_POINTS_APART_IN_TASKS:g} points"
        ] = abs(points) <= _MOST_POINTS_APART_IN_TASKS
        found |= _telling(task.task, task.pair.accuracy)
    for name, goal in LEARNED.items():
        if accuracies := [row.accuracy for row in figures.learned if row.network == name]:
            mean = statistics.mean(accuracies)
            found[f"{name}: {mean:.3f} with {_SPARSITY:.0%} pruned, at least {goal.least}"] = mean >= goal.least
    return found


def _telling(name: str, accuracy: float) -> dict[str, bool | None]:
    tells = _LEAST_TELLING <= accuracy <= _MOST_TELLING
    return {f"{name}: its accuracy, {accuracy:.3f}, is neither chance nor perfect": tells}


def _pair(network: str, scenario: Scenario, seed: int) -> Pair:
    with site(scenario, seed, sparsity=_SPARSITY) as place:
        litert, keras = _run(network, place, "litert"), _run(network, place, "keras")
    return Pair(
        seed=seed,
        source=place.source,
        litert_accuracy=settled_accuracy(litert.accuracies),
        keras_accuracy=settled_accuracy(keras.accuracies),
        litert_sparsity=litert.sparsity,
        keras_sparsity=keras.sparsity,
    )


def _learned(network: str, seed: int) -> Learned:
    scenario = LEARNED[network].scenario
    with site(scenario, seed, sparsity=_SPARSITY) as place:
        pruned = _run(network, place, "litert")
        central = settled_accuracy(place.train_centrally())
        _say(f"{network}, seed {seed}, central: {central:.4f}")
    with site(scenario, seed, sparsity=0.0) as place:
        dense = _run(network, place, "litert", codec=DENSE_CODEC)
    return Learned(
        network=network,
        seed=seed,
        accuracy=settled_accuracy(pruned.accuracies),
        early_accuracy=pruned.accuracies[_EARLY_ROUNDS - 1],
        sparsity=pruned.sparsity,
        dense_accuracy=settled_accuracy(dense.accuracies),
        central_accuracy=central,
    )


def _run(network: str, place: Site, trainer: str, codec: str = DEFAULT_CODEC) -> Run:
    began = time.monotonic()
    run = place.federate(trainer, codec)
    _say(
        f"{network}, seed {place.seed}, {trainer}, {codec}: {settled_accuracy(run.accuracies):.4f} after "
        f"{len(run.accuracies)} rounds, {time.monotonic() - began:.0f} s"
    )
    return run


def _say(text: str) -> None:
    click.echo(text, err=True)


def _pairs_table(title: str, pairs: Sequence[Pair]) -> Table:
    table = Table(title=f"{title}: {pairs[0].source}", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("seed", "litert", "keras", "points", "sparsity"):
        table.add_column(heading, justify="right")
    for pair in pairs:
        table.add_row(
            str(pair.seed),
            f"{pair.litert_accuracy:.4f}",
            f"{pair.keras_accuracy:.4f}",
            f"{pair.points:+.2f}",
            f"{pair.litert_sparsity:.4f} / {pair.keras_sparsity:.4f}",
        )
    return table


def _learned_table(rows: list[Learned]) -> Table:
    title = "Learned on LiteRT: pruned, dense, and by central training"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for heading in ("network", "seed", "pruned", f"after {_EARLY_ROUNDS} rounds", "sparsity", "dense", "central"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for row in rows:
        table.add_row(
            row.network,
            str(row.seed),
            f"{row.accuracy:.4f}",
            f"{row.early_accuracy:.4f}",
            f"{row.sparsity:.4f}",
            f"{row.dense_accuracy:.4f}",
            f"{row.central_accuracy:.4f}",
        )
    return table
