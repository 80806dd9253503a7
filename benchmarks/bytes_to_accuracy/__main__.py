"""How many bytes to which accuracy? `python -m benchmarks.bytes_to_accuracy [--quick] [--seeds 11,12] [--json FILE]`"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import click
from rich.console import Console

from benchmarks.agent_memory.environments import Environment
from benchmarks.bytes_to_accuracy.federation import Learning, learn
from benchmarks.bytes_to_accuracy.flower import measure_sockets, version_of
from benchmarks.bytes_to_accuracy.flower_learning import can_learn, check_environment, learn_by_flower
from benchmarks.bytes_to_accuracy.picture import draw
from benchmarks.bytes_to_accuracy.problems import PROBLEMS, USUAL_PROBLEM, arrangement_of
from benchmarks.bytes_to_accuracy.recipes import BY_FLOWER, DENSE, RECIPES, USUAL, Recipe
from benchmarks.bytes_to_accuracy.records import Arrangement, Journal, Run, bytes_to, commit, means, target_of, total
from benchmarks.bytes_to_accuracy.table import tables
from benchmarks.command_line import Script, json_option
from benchmarks.demo.rerun import seeds_option
from fedprune.system.disk import Directory

_ROUNDS, _QUICK_ROUNDS = 60, 10

_TUNED_SEEDS = (1, 2)
"""Those by which recipes were chosen."""


@click.command(cls=Script)
@seeds_option("11,12,13,14,15")
@click.option("--quick", is_flag=True, help=f"{_QUICK_ROUNDS} rounds instead of {_ROUNDS}.")
@click.option("--recipe", "names", multiple=True, type=click.Choice([each.name for each in RECIPES]), default=USUAL)
@click.option(
    "--problem", type=click.Choice(list(PROBLEMS)), default=USUAL_PROBLEM.name, show_default=True, help="To be learned."
)
@click.option(
    "--partition",
    type=click.Choice(sorted({name for problem in PROBLEMS.values() for name in problem.partitions})),
    help="How data are spread over agents.  [default: the problem's usual one]",
)
@click.option("--participation", type=click.FloatRange(0.1, 1.0), default=1.0, help="Of the agents, in each round.")
@json_option("Write the runs there as they end; runs that it has are not made again.")
@click.option(
    "--flower",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="A virtual environment with flwr[simulation] and tensorflow: have Flower learn the same.",
)
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw accuracy against bytes there.")
def main(
    seeds: tuple[int, ...],
    quick: bool,
    names: tuple[str, ...],
    problem: str,
    partition: str | None,
    participation: float,
    target: Path | None,
    flower: Path | None,
    picture: Path | None,
) -> None:
    """Run federations, and compare the bytes that they take to be as good as dense federated averaging.

    Agents, 10 with 600 examples of Fashion-MNIST each unless another problem is named, train CNN-108k on LiteRT in one
    process, without a network, from the same weights: dense ones, whose models and updates travel whole in fp32, with a
    constant and with a falling learning rate, and those of the presets. Payload is counted, with what is sent to all
    once for each receiver. With --flower, Flower's own federated averaging in its simulation, from the same weights and
    in the same batches, stands beside the dense one, and the bytes on sockets of a deployed one are counted.
    """
    journal, arrangement = Journal(target), arrangement_of(PROBLEMS[problem], partition, participation)
    environment = None if flower is None else Environment(flower.resolve())
    if environment is not None:
        check_environment(environment)
    rounds = _QUICK_ROUNDS if quick else _ROUNDS
    wanted = [recipe for recipe in RECIPES if recipe.name in names or recipe is DENSE]
    made = [run for seed in seeds for run in _compare(wanted, arrangement, seed, rounds, journal)]
    if environment is not None:
        targets = {run.seed: run.target for run in made}
        made += _by_flower(environment, arrangement, targets, rounds, journal)
    Console(width=120).print(*tables(made, journal.flower), sep="\n")
    if picture is not None:
        Directory(picture.absolute().parent).write(picture.name, draw(made))


def _compare(
    recipes: Sequence[Recipe], arrangement: Arrangement, seed: int, rounds: int, journal: Journal
) -> Iterable[Run]:
    """The runs of a seed, the dense one first: those of the journal, and others are made."""
    target = None
    for recipe in recipes:
        its_rounds = recipe.rounds_of(rounds)
        run = journal.find(recipe.name, seed, its_rounds, arrangement)
        if run is None:
            run = _run(recipe, arrangement, seed, its_rounds, target)
            journal.add(run)
        target = run.target
        yield run


def _by_flower(
    environment: Environment, arrangement: Arrangement, targets: Mapping[int, float], rounds: int, journal: Journal
) -> Iterator[Run]:
    """Flower's runs of each seed, which has a target; what another version of it did is forgotten."""
    if journal.flower is None or journal.flower.version != version_of(environment):
        with tempfile.TemporaryDirectory() as directory:
            journal.add_flower(measure_sockets(environment, Path(directory)))
    for seed, target in targets.items() if can_learn(arrangement) else ():
        for name, recipe in BY_FLOWER.items():
            run = journal.find(name, seed, rounds, arrangement)
            if run is None:
                with tempfile.TemporaryDirectory() as directory:
                    learned = learn_by_flower(environment, recipe, arrangement, seed, rounds, Path(directory))
                run = _run_of(name, learned, arrangement, seed, rounds, target)
                journal.add_flower_run(run)
            yield run


def _run(recipe: Recipe, arrangement: Arrangement, seed: int, rounds: int, target: float | None) -> Run:
    with tempfile.TemporaryDirectory() as directory:
        learned = learn(recipe, arrangement, seed, rounds, Path(directory))
    return _run_of(recipe.name, learned, arrangement, seed, rounds, target)


def _run_of(
    name: str, learned: Learning, arrangement: Arrangement, seed: int, rounds: int, target: float | None
) -> Run:
    by_round = [total(up) + total(down) for up, down in zip(learned.up, learned.down, strict=True)]
    target = target_of(learned.accuracies) if target is None else target
    return Run(
        name=name,
        seed=seed,
        tuned=seed in _TUNED_SEEDS,
        partition=arrangement.partition,
        participation=arrangement.participation,
        rounds=rounds,
        accuracy_final=means(learned.accuracies)[-1],
        sparsity=learned.sparsity,
        bytes_up=dict(sum(learned.up, Counter())),
        bytes_down=dict(sum(learned.down, Counter())),
        bytes_total=sum(by_round),
        bytes_to_target=bytes_to(target, learned.accuracies, by_round),
        target=target,
        accuracies=tuple(learned.accuracies),
        bytes_by_round=tuple(by_round),
        commit=commit(),
        problem=arrangement.problem,
    )


if __name__ == "__main__":
    main()
