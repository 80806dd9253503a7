"""The command `fedprune benchmark`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from benchmarks.command_line import STANDARD_OUTPUT, json_option, to_json, write_json
from benchmarks.latency.comparison import Comparison, Pair, compare_reports
from benchmarks.latency.history import append_to_history, read_history, read_report
from benchmarks.latency.measure import Settings, measure, turns
from benchmarks.latency.results import Report
from benchmarks.latency.shapes import Shape, parse_shapes
from benchmarks.latency.table import digits, ratio_text, render
from fedprune.errors import ExportError, FedpruneError
from fedprune.runtime.tflite import one_line
from fedprune.system.commands import Commands
from fedprune.system.table import table_lines

_DEFAULTS = Settings()
_MOST_THREADS = 64
_TOLERANCE = 0.05
"""What `compare` takes for no change: a twentieth."""


class NotAsFast(FedpruneError):
    """A benchmark is slower than the one before, or was made otherwise."""

    exit_code = 1


class _Measuring(Commands):
    """A group whose command `run` need not be named: what is no other command's name is a model."""

    default = "run"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Measuring, context_settings={"help_option_names": ["-h", "--help"]})
def benchmark() -> None:
    """Measure how fast TFLite models run on this device, and how much memory they take.

    `fedprune benchmark MODEL.tflite` is short for `fedprune benchmark run MODEL.tflite`.

    \b
    Example, two exports of a model on the four cores of a Raspberry Pi:
      fedprune benchmark fp32.tflite int8.tflite --num_threads 1,2,4 --json pi4.json
    \b
    The same after an upgrade, and what has changed:
      fedprune benchmark fp32.tflite int8.tflite --num_threads 1,2,4 --json later.json
      fedprune benchmark compare pi4.json later.json
    """


def _parse_shapes(_: click.Context, __: click.Parameter, text: str | None) -> tuple[Shape, ...]:
    try:
        return () if text is None else parse_shapes(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no list of shapes such as 1,224,224,3 or 1,30:1,10 ({error})") from error


def _parse_threads(_: click.Context, __: click.Parameter, text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() and 1 <= int(word[:3]) <= _MOST_THREADS for word in words):
        raise click.BadParameter(f"{text!r} is no list such as 1,2,4, of numbers from 1 to {_MOST_THREADS}")
    return tuple(dict.fromkeys(map(int, words)))


@benchmark.command("run")
@click.argument("models", metavar="MODEL.tflite...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--num_threads",
    "--threads",
    default="1",
    show_default=True,
    callback=_parse_threads,
    metavar="N[,N,…]",
    help="For each model; several numbers are all measured.",
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
@click.option(
    "--history",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.jsonl",
    help="Add the report to this file, which `fedprune benchmark history` draws.",
)
@click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.jsonl",
    help="Append each block of runs to this file as soon as it was measured, for runs that take long.",
)
@click.option("--resume", is_flag=True, help="Go on with the benchmark that --journal holds.")
def run(
    models: tuple[Path, ...],
    num_threads: tuple[int, ...],
    num_runs: int,
    warmup_runs: int,
    input_layer_shape: tuple[Shape, ...],
    target: Path | None,
    history: Path | None,
    journal: Path | None,
    resume: bool,
) -> None:
    """Measure models: MODEL.tflite is a file, of which there may be several.

    They take turns in short blocks, each on each number of threads, so that whatever else the device does meets all of
    them alike. The last columns are each one's latency divided by the first model's on as many threads, and by its own
    on the first number of threads, block by block, with half of the 95 % interval. Inputs are random. Peak memory is
    that of the whole process that runs a model: Python, the runtime, the model.

    Before, between and after the blocks the machine's load, clock, heat, throttling and memory are recorded. What
    disturbed the measurement is told under the table, and in the report's `flags`.

    \b
    A model that takes images of any size:
      fedprune benchmark run segment.tflite --input_layer_shape 1,224,224,3
    \b
    A long run that goes on where it was ended:
      fedprune benchmark run a.tflite b.tflite --num_runs 100000 --journal long.jsonl --resume
    """
    if resume and journal is None:
        raise click.UsageError("--resume needs --journal, the file to go on with")
    settings = Settings(num_threads, num_runs, warmup_runs, input_layer_shape)
    report = _measure_with_progress(models, settings, journal, resume=resume)
    if report.reference is not None:
        click.echo(render(report), err=target == STANDARD_OUTPUT)
    if target == STANDARD_OUTPUT:
        click.echo(to_json(report), nl=False)
    else:
        write_json(report, target)
    if history is not None and report.reference is not None:
        append_to_history(history, report)
    if report.failures:
        raise ExportError(_reasons(report))


@benchmark.command()
@click.argument("first", metavar="A.json", type=click.Path(path_type=Path))
@click.argument("second", metavar="B.json", type=click.Path(path_type=Path))
@click.option(
    "--tolerance",
    type=click.FloatRange(0.0, 10.0),
    default=_TOLERANCE,
    show_default=True,
    help="By how much B may be slower, as a fraction.",
)
@json_option("Write the comparison there.")
def compare(first: Path, second: Path, tolerance: float, target: Path | None) -> None:
    """Compare two reports, A.json from before and B.json from after: ratios of latencies, with their 95 % intervals.

    The exit code is 1 if a model is slower in B, or if like was not compared with like: other machines, runtimes, files
    or settings, or a disturbed measurement. What it was is told.
    """
    found = compare_reports(read_report(first), read_report(second), tolerance)
    _show(found)
    write_json(found, target)
    if not found.holds:
        raise NotAsFast(_verdict(found))


@benchmark.command()
@click.argument("history", metavar="FILE.jsonl", type=click.Path(path_type=Path))
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help="Draw the medians over time.",
)
def history(history: Path, picture: Path | None) -> None:
    """Show what `--history FILE.jsonl` has kept: the medians of each benchmark, and what disturbed it."""
    reports = read_history(history)
    rows = [
        [
            f"{report.time:%Y-%m-%d %H:%M}",
            one_line(Path(row.path).name),
            str(row.num_threads),
            digits(row.latency_ms.p50),
            *_flags(report),
        ]
        for report in reports
        for row in report.measured
    ]
    click.echo("\n".join(table_lines(["time", "model", "threads", "p50", "disturbed"], rows, left=(0, 1, 4))))
    if picture is not None:
        from benchmarks.latency.picture import draw_history  # matplotlib, which devices do without

        draw_history(reports, picture)


def _flags(report: Report) -> list[str]:
    return [", ".join(dict.fromkeys(flag.disturbance for flag in report.flags))]


def _measure_with_progress(
    models: tuple[Path, ...], settings: Settings, journal: Path | None, *, resume: bool
) -> Report:
    with click.progressbar(
        length=len(models) * len(settings.num_threads) * turns(settings),
        label="Measuring",
        item_show_func=_name_of,
        file=sys.stderr,
    ) as progress:
        return measure(models, settings, lambda model: progress.update(1, model), journal, resume=resume)


def _name_of(model: Path | None) -> str | None:
    return None if model is None else one_line(model.name)


def _reasons(report: Report) -> str:
    reasons = "; ".join(dict.fromkeys(row.error for row in report.failures))
    if len(report.failures) == 1:
        return reasons
    return f"{len(report.failures)} of {len(report.models)} models could not be benchmarked: {reasons}"


def _show(found: Comparison) -> None:
    rows = [
        [
            one_line(pair.name),
            str(pair.num_threads),
            digits(pair.first_ms),
            digits(pair.second_ms),
            ratio_text(pair.ratio),
            _change(pair),
        ]
        for pair in found.pairs
    ]
    click.echo("\n".join(table_lines(["model", "threads", "A p50", "B p50", "B / A", ""], rows, left=(0, 5))))
    for line in (*found.differences, *(f"only one of them has {name}" for name in found.missing)):
        click.secho(f"Not like with like: {one_line(line)}.", fg="yellow")


def _change(pair: Pair) -> str:
    return "slower" if pair.is_slower else "faster" if pair.ratio.high < 1 else ""


def _verdict(found: Comparison) -> str:
    slower = [f"{one_line(pair.name)} ({pair.num_threads} threads)" for pair in found.pairs if pair.is_slower]
    if slower:
        return f"slower than before: {', '.join(slower)}"
    return "nothing is slower, but like was not compared with like: make both benchmarks alike to be sure"
