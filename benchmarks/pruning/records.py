"""The benchmark's result, which grows run by run, and goes on from where it was ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from benchmarks.command_line import to_json
from benchmarks.pruning.recipes import CORE, LONG, RECIPES, SMALL_RECIPES
from benchmarks.pruning.results import Backward, Compared, Run, Shrunk, Speedup
from benchmarks.pruning.tasks import TASKS
from fedprune.errors import StorageError
from fedprune.system.disk import Directory

_QUICK_ROUNDS = 12
_QUICK_RECIPES = ("dense", "90 %", "half", "half + 80 %")
_FEWER_SEEDS = 3
"""Seeds that the small tasks and the long recipes are run with."""


class Result(msgspec.Struct, frozen=True):
    """What is written to JSON."""

    quick: bool
    runs: tuple[Run, ...] = ()
    speedups: tuple[Speedup, ...] = ()
    compared: tuple[Compared, ...] = ()
    shrunk: tuple[Shrunk, ...] = ()
    backward: tuple[Backward, ...] = ()

    def find(self, task: str, name: str, seed: int) -> Run | None:
        """The run of a recipe, if it is there."""
        return next((run for run in self.runs if (run.task, run.recipe, run.seed) == (task, name, seed)), None)


def plan(seeds: tuple[int, ...], *, quick: bool) -> Iterator[tuple[str, str, int]]:
    """Task, recipe and seed of each run, so that whole comparisons come first, and each dense one before those that are
    compared with it."""
    if quick:
        yield from (("images", name, seeds[0]) for name in _QUICK_RECIPES)
        return
    yield from (("images", name, seed) for seed in seeds for name in CORE)
    for task in TASKS:
        if task != "images":
            yield from ((task, name, seed) for seed in seeds[:_FEWER_SEEDS] for name in SMALL_RECIPES)
    yield from (("images", name, seed) for seed in seeds[:_FEWER_SEEDS] for name in LONG)


def methods_left(result: Result, task: str, seed: int, methods: Iterable[str]) -> frozenset[str]:
    """Those of `methods` that are not in a result yet."""
    there = {row.method for row in result.compared if (row.task, row.seed) == (task, seed)}
    return frozenset(methods) - there


def rounds_of(task: str, *, quick: bool) -> int:
    """The rounds of a recipe that takes once as many as its task."""
    return _QUICK_ROUNDS if quick else TASKS[task].scenario.rounds


def dense_accuracy(result: Result, task: str, name: str, seed: int) -> float | None:
    """That of the dense run that a recipe is compared with; None if it is dense itself."""
    dense = RECIPES[name].dense
    found = result.find(task, dense, seed)
    return None if name == dense or found is None else found.accuracy


def save(result: Result, target: Path | None) -> None:
    """Write it where ``--json`` says, if it does: whole or not at all, so that a run that is ended loses nothing.

    Raises `StorageError`.
    """
    if target is not None:
        Directory(target.absolute().parent).write(target.name, to_json(result))


def earlier(target: Path | None, *, quick: bool) -> Result:
    """The result to go on with. Raises `StorageError` if there is none in the file, or of other settings."""
    if target is None or not target.exists():
        raise StorageError("--resume goes on with what --json FILE holds: name a file that is there")
    try:
        result = msgspec.json.decode(target.read_bytes(), type=Result)
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        raise StorageError(f"--json {target}: no result of this benchmark ({error}); give another file") from error
    if result.quick != quick:
        raise StorageError(f"--json {target}: made {'with' if result.quick else 'without'} --quick; give another file")
    return result
