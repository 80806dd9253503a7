"""The command `fedprune benchmark`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from benchmarks.command_line import STANDARD_OUTPUT, json_option, to_json, write_json
from benchmarks.latency.measure import Settings, measure, turns
from benchmarks.latency.results import Report
from benchmarks.latency.shapes import Shape, parse_shapes
from benchmarks.latency.table import render
from fedprune.errors import ExportError
from fedprune.runtime.tflite import one_line

_DEFAULTS = Settings()


def _parse_shapes(_: click.Context, __: click.Parameter, text: str | None) -> tuple[Shape, ...]:
    try:
        return () if text is None else parse_shapes(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no list of shapes such as 1,224,224,3 or 1,30:1,10 ({error})") from error


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
    "--input_layer_shape",
    callback=_parse_shapes,
    metavar="SIZE,SIZE,…[:SIZE,…]",
    help="The shape of each input, in the model's order, batch first. Needed where the model leaves sizes "
    "open (but the batch, which is then 1); of several models all must take it.",
)
@json_option(
    "Write the report there as JSON; - is standard output, the table then goes to standard error.", allow_dash=True
)
def benchmark(
    models: tuple[Path, ...],
    num_threads: int,
    num_runs: int,
    warmup_runs: int,
    input_layer_shape: tuple[Shape, ...],
    target: Path | None,
) -> None:
    """Measure how fast TFLite models run on this device, and how much memory they take.

    Several models take turns in short blocks, so that whatever else the device does meets all of them alike; the
    last column is each one's latency divided by the first one's, block by block, with half of the quartiles' range.
    Inputs are random. Peak memory is that of the whole process that runs a model: Python, the runtime, the model.

    \b
    Example, two exports of a model on the four cores of a Raspberry Pi:
      fedprune benchmark fp32.tflite int8.tflite --num_threads 4 --json pi4.json
    \b
    A model that takes images of any size:
      fedprune benchmark segment.tflite --input_layer_shape 1,224,224,3
    """
    settings = Settings(num_threads, num_runs, warmup_runs, input_layer_shape)
    report = _measure_with_progress(models, settings)
    if report.reference is not None:
        click.echo(render(report), err=target == STANDARD_OUTPUT)
    if target == STANDARD_OUTPUT:
        click.echo(to_json(report), nl=False)
    else:
        write_json(report, target)
    if report.failures:
        raise ExportError(_reasons(report))


def _measure_with_progress(models: tuple[Path, ...], settings: Settings) -> Report:
    with click.progressbar(
        length=len(models) * turns(settings), label="Measuring", item_show_func=_name_of, file=sys.stderr
    ) as progress:
        return measure(models, settings, lambda model: progress.update(1, model))


def _name_of(model: Path | None) -> str | None:
    return None if model is None else one_line(model.name)


def _reasons(report: Report) -> str:
    reasons = "; ".join(row.error for row in report.failures)
    if len(report.failures) == 1:
        return reasons
    return f"{len(report.failures)} of {len(report.models)} models could not be benchmarked: {reasons}"
