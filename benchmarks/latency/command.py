"""The command `fedprune benchmark`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import msgspec

from benchmarks.latency.measure import Settings, measure, turns
from benchmarks.latency.results import Report
from benchmarks.latency.table import render
from fedprune.errors import ConfigurationError, ExportError, StorageError
from fedprune.tflite import one_line

_DEFAULTS = Settings()
_STANDARD_OUTPUT = Path("-")


@click.command()
@click.argument("models", metavar="MODEL.tflite...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--num_threads",
    type=click.IntRange(1, 64),
    default=_DEFAULTS.num_threads,
    show_default=True,
    help="For each model.",
)
@click.option(
    "--num_runs",
    type=click.IntRange(1, 1_000_000),
    default=_DEFAULTS.num_runs,
    show_default=True,
    help="Timed inferences of each model.",
)
@click.option(
    "--warmup_runs",
    type=click.IntRange(0, 1_000_000),
    default=_DEFAULTS.warmup_runs,
    show_default=True,
    help="Inferences before them that are not timed.",
)
@click.option(
    "--json",
    "target",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="Write the report there as JSON; - is standard output, the table then goes to standard error.",
)
def benchmark(models: tuple[Path, ...], num_threads: int, num_runs: int, warmup_runs: int, target: Path | None) -> None:
    """Measure how fast TFLite models run on this device, and how much memory they take.

    Several models take turns in short blocks, so that whatever else the device does meets all of them alike; the
    last column is each one's latency divided by the first one's, block by block, with half of the quartiles' range.
    Inputs are random. Peak memory is that of the whole process that runs a model: Python, the runtime, the model.

    \b
    Example, two exports of a model on the four cores of a Raspberry Pi:
      fedprune benchmark fp32.tflite int8.tflite --num_threads 4 --json pi4.json
    """
    if target is not None:
        _check_target(target)
    settings = Settings(num_threads, num_runs, warmup_runs)
    report = _measure_with_progress(models, settings)
    if report.reference is not None:
        click.echo(render(report), err=target == _STANDARD_OUTPUT)
    if target is not None:
        _write(report, target)
    if report.failures:
        raise ExportError(_reasons(report))


def _measure_with_progress(models: tuple[Path, ...], settings: Settings) -> Report:
    with click.progressbar(
        length=len(models) * turns(settings), label="Measuring", item_show_func=_name_of, file=sys.stderr
    ) as progress:
        return measure(models, settings, lambda model: progress.update(1, model))


def _name_of(model: Path | None) -> str | None:
    return None if model is None else one_line(model.name)


def _check_target(target: Path) -> None:
    """Say before the measurement that its report has nowhere to go."""
    if target != _STANDARD_OUTPUT and not os.access(target.absolute().parent, os.W_OK):
        raise ConfigurationError(f"--json {target}: cannot write into {target.parent}; make that directory first")


def _write(report: Report, target: Path) -> None:
    text = msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
    if target == _STANDARD_OUTPUT:
        sys.stdout.buffer.write(text)
        return
    try:
        target.write_bytes(text)
    except OSError as error:
        raise StorageError(f"--json {target}: {error.strerror}; give a file that can be written") from error


def _reasons(report: Report) -> str:
    reasons = "; ".join(row.error for row in report.failures)
    if len(report.failures) == 1:
        return reasons
    return f"{len(report.failures)} of {len(report.models)} models could not be benchmarked: {reasons}"
