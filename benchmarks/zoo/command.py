"""Ordinary networks, from tf_keras to both trainers and all exports: `python -m benchmarks.zoo`"""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from rich.console import Console

from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.latency.this_machine import read_machine
from benchmarks.zoo.measure import measure, measure_criterion
from benchmarks.zoo.networks import NETWORKS, SMALL
from benchmarks.zoo.records import Measured, Zoo
from benchmarks.zoo.tables import markdown, rich_table
from benchmarks.zoo.training import MOST_APART
from fedprune.errors import StorageError

_BATCH_SIZES = (8, 16, 32, 64)
_MOST_BUILD_S = 45.0
_MEDIAN, _P95 = 1.0, 2.0
"""The most that gradients of a training graph may be less exact than tf_keras' own."""
_MOST_MUTANTS_QUICK = 40
_MUTANTS = "mutants"


def _names(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(filter(None, value.split(",")))
    if unknown := [name for name in names if name not in (*NETWORKS, _MUTANTS)]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(NETWORKS)}, {_MUTANTS}")
    return names


@click.command(cls=Script)
@click.option(
    "--only",
    "names",
    callback=_names,
    metavar="N,N,…",
    help="These networks alone, or the mutants; the rest of --json's file is kept.",
)
@click.option("--quick", is_flag=True, help="Small networks, fewer mutants; no speed, parity or exports.")
@click.option(
    "--markdown",
    "page",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Write the table of docs/ZOO.md there.",
)
@json_option("Write the results there.")
def main(names: tuple[str, ...] | None, quick: bool, page: Path | None, target: Path | None) -> None:
    """Build ordinary networks, compare their training graphs with tf_keras, and measure both trainers and the exports.

    Each network is built, trained and converted in processes of its own, one thread, batch 32. Mutants of small
    networks, with one mistake each, show whether the criterion of the proof finds them. Exits with 1 if a claim
    does not hold.
    """
    chosen = names or (*(SMALL if quick else NETWORKS), _MUTANTS)
    zoo = _earlier(target) if names else Zoo(_machine(), (), None)
    for name in chosen:
        click.echo(f"{name} ...", err=True)
        if name == _MUTANTS:
            criterion = measure_criterion(zoo.networks, most=_MOST_MUTANTS_QUICK if quick else None)
            zoo = Zoo(_machine(), zoo.networks, criterion)
        else:
            zoo = Zoo(_machine(), _with(zoo.networks, measure(name, quick=quick)), zoo.criterion)
        write_json(zoo, target)  # what there is, should this be interrupted
    if page is not None:
        page.write_text(markdown(zoo))
    Console().print(rich_table(zoo))
    settle(_claims(zoo))


def _earlier(target: Path | None) -> Zoo:
    """The result that a part of is measured again. Raises `StorageError` if the file holds another."""
    if target is None or not target.exists():
        return Zoo(_machine(), (), None)
    try:
        return msgspec.json.decode(target.read_bytes(), type=Zoo)
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        raise StorageError(f"--json {target}: no result of the zoo ({error}); give another file") from error


def _with(rows: tuple[Measured, ...], row: Measured) -> tuple[Measured, ...]:
    """`rows` with `row` instead of an earlier one of its network, in the zoo's order."""
    by_name = {known.name: known for known in rows} | {row.name: row}
    return tuple(by_name[name] for name in NETWORKS if name in by_name)


def _machine() -> str:
    machine = read_machine()
    return f"{machine.cpu or machine.architecture}, {machine.cores} cores"


def _claims(zoo: Zoo) -> dict[str, bool | None]:
    claims: dict[str, bool | None] = {}
    for row in zoo.networks:
        claims[f"{row.name}: a graph at batch 8, 16, 32 and 64"] = set(_BATCH_SIZES) <= set(row.graph)
        claims[f"{row.name}: built in {row.build_seconds:.0f} s, at most {_MOST_BUILD_S:.0f}"] = (
            row.build_seconds <= _MOST_BUILD_S
        )
        if found := row.exactness:
            claims[
                f"{row.name}: gradients are {found.median:.2f}x as far from float64 as tf_keras' in the median, "
                f"{found.p95:.2f}x at the 95th percentile; at most {_MEDIAN:g}x and {_P95:g}x"
            ] = found.median <= _MEDIAN and found.p95 <= _P95
        if row.parity is not None:
            claims[
                f"{row.name}: after 20 steps the trainers are {row.parity:.2f} roundings apart, at most {MOST_APART:g}"
            ] = row.parity <= MOST_APART
    if criterion := zoo.criterion:
        claims[f"{criterion.false_refusals} of {criterion.honest} honest graphs refused"] = (
            criterion.false_refusals == 0
        )
        claims[f"{criterion.missed_mutants} of {criterion.mutants} mutants missed by the proof"] = (
            criterion.missed_mutants == 0
        )
        claims[f"{criterion.missed_by_self_check} missed by the self-check"] = criterion.missed_by_self_check == 0
    return claims
