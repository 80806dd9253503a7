"""The demo as a means: run it for a seed with some options, and look at what came of it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from benchmarks.demo.result import DemoResult

_LAST_ROUNDS = 5

_Command = TypeVar("_Command", bound=Callable[..., Any])


def seeds_option(default: str, *, least: int = 1) -> Callable[[_Command], _Command]:
    """The option ``--seeds``: a tuple of `least` or more different seeds."""

    def check(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
        return parse_seeds(value, least)

    return click.option("--seeds", default=default, show_default=True, callback=check, help="Separated by commas.")


def parse_seeds(text: str, least: int) -> tuple[int, ...]:
    """Raises `click.BadParameter`."""
    try:
        seeds = tuple(int(seed) for seed in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r}: give whole numbers, separated by commas") from None
    if min(seeds) < 0 or len(set(seeds)) != len(seeds) or len(seeds) < least:
        raise click.BadParameter(f"{text!r}: give {least} or more different seeds, none below 0")
    return seeds


def rerun_demo(seed: int, *options: str) -> DemoResult:
    """Run `fedprune demo` into a passing directory, showing its progress. If it fails, this process exits as it did."""
    with tempfile.TemporaryDirectory() as directory:
        command = (sys.executable, "-m", "fedprune.command", "demo", "--seed", str(seed), "--out", directory, *options)
        done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        if done.returncode:
            sys.exit(done.returncode)  # the demo has said why
        return msgspec.json.decode((Path(directory) / "result.json").read_bytes(), type=DemoResult)


def settled_accuracy(accuracies: Sequence[float]) -> float:
    """The mean of the last five rounds' accuracies, fractions."""
    return statistics.mean(accuracies[-_LAST_ROUNDS:])


def sources(each: Iterable[str]) -> str:
    """Name the data that the runs were made with: a demo takes other data where it cannot have its own."""
    return " and ".join(sorted(set(each)))
