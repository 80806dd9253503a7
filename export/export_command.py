"""The command `fedprune export`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from export.report import DENSE_FORMATS, FILE, KNOWN_TO_FAIL, Exported, Failure, Format, Report, judged_by
from fedprune.errors import ConfigurationError, ExportError
from fedprune.system.output import droppable

_REQUIRED = ("tensorflow", "tf_keras", "tensorflow_model_optimization", "ai_edge_litert", "zstandard")
_ALL = ",".join(Format)
_DENSE = ",".join(DENSE_FORMATS)
_STEPS_BESIDE_FORMATS = 3
_PIPE_WIDTH = 120
"""Columns where no terminal tells its width."""


class FormatsFailed(ExportError):
    """Some formats could not be made. The files of the others are there, and the report."""

    exit_code = 1


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--formats",
    "formats_text",
    default=_DENSE,
    show_default=True,
    metavar="F,F,…",
    help=f"Which files to make, of {_ALL}.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Examples to calibrate int8 with, at most 200: files of the task's form, or an .npz.  "
    "[default: a part of RUN/held-out.npz]  Without that file: to verify on, too.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where they go.  [default: RUN/export]",
)
@click.option("--json", "as_json", is_flag=True, help="Print exports.json instead of a table.")
def export(run: Path, formats_text: str, data: Path | None, out: Path | None, as_json: bool) -> None:
    """Convert a run's global model to verified .tflite files.

    RUN is an aggregator's state directory; its newest checkpoint is taken. Writes DIR/fp32.tflite, DIR/fp16.tflite,
    DIR/dynamic.tflite (weights int8, activations float) and DIR/int8.tflite (all int8, input and output too), with a
    batch of 1, and DIR/exports.json, which says of each: size, sparsity, accuracy, the largest difference to the
    Keras model, and which TFLite runtimes of this machine run it. fp32-sparse and fp16-sparse, in sparse encoding, are
    made where they are asked for. Filters and units that no output depends on any more, as structured pruning leaves
    them, are removed first. Files are verified on RUN/held-out.npz, but for the examples that calibrate int8.

    A format that cannot be made is told, and the others are made. The exit code is 1 then, or 10 if none could be made.

    \b
    Example:
      fedprune export runs/demo/run --formats fp32,int8 --out models
    """
    formats = _parse_formats(formats_text)
    _check_installed()
    out = run / "export" if out is None else out
    from export.exporting import export_run  # needs what was just looked for

    with _progress(len(formats)) as on_step:
        report = export_run(run, data, out, formats, on_step)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
    else:
        _show(report, out)
    _raise_failures(report.failures, made=bool(report.exports))


def _parse_formats(text: str) -> list[Format]:
    names = set(filter(None, text.replace(" ", "").split(",")))
    for name in sorted(names.intersection(KNOWN_TO_FAIL)):
        raise ConfigurationError(f"--formats {name}: {KNOWN_TO_FAIL[name]}; take {name.removesuffix('-sparse')}")
    unknown = sorted(names.difference(Format))
    if unknown or not names:
        raise ConfigurationError(f"--formats {text!r}: {unknown[0] if unknown else 'nothing'!r} is none of {_ALL}")
    return [form for form in Format if form in names]


def _check_installed() -> None:
    missing = [module for module in _REQUIRED if find_spec(module) is None]
    if missing:
        raise ExportError(f"export needs {', '.join(missing)}; in fedprune's clone: pip install '.[export]'")


@contextmanager
def _progress(formats: int) -> Iterator[Callable[[str], None]]:
    """A bar on the terminal that was standard error, whatever is done to file descriptor 2 meanwhile."""
    columns = (BarColumn(), TextColumn("{task.description}", markup=False))
    with droppable(os.dup(2)) as terminal:
        console = Console(file=terminal)
        with Progress(
            *columns, console=console, transient=True, redirect_stderr=False, disable=not console.is_terminal
        ) as progress:
            task = progress.add_task("", total=_STEPS_BESIDE_FORMATS + 2 * formats, completed=-1)
            yield lambda step: progress.update(task, advance=1, description=step)


def _show(report: Report, out: Path) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(_table(report))
    for row in report.exports:
        for tried in row.runs_on:
            if not tried.ok:
                console.print(
                    f"{row.path}: {tried.runtime} {tried.version}: {tried.error}", style="yellow", markup=False
                )
    for failure in report.failures:
        console.print(f"{failure.format.file}: {failure.error}", style="yellow", markup=False, highlight=False)
    if report.removed_units:
        listed = ", ".join(f"{count} of {layer}" for layer, count in report.removed_units.items())
        console.print(f"Units that no output depends on were removed: {listed}", markup=False, highlight=False)
    for line in report.warnings:
        console.print(f"Warning: {line}", style="yellow", markup=False, highlight=False)
    written = " and ".join(filter(None, (", ".join(row.path for row in report.exports), FILE)))
    console.print(f"{written} {'are' if report.exports else 'is'} in {out}", markup=False, highlight=False)


def _raise_failures(failures: Sequence[Failure], *, made: bool) -> None:
    """Raise one error for all formats that could not be made."""
    if not failures:
        return
    reasons = " | ".join(f"{failure.format}: {failure.error}" for failure in failures)
    if made:
        raise FormatsFailed(f"some formats could not be made, the others are there: {reasons}")
    raise ExportError(f"no format could be made: {reasons}")


def _table(report: Report) -> Table:
    metric = next(iter(judged_by(report.keras_metrics)), None)
    quality = _quality(metric, report.keras_metrics, report.keras_loss)
    title = f"{report.task}, version {report.version}: {metric or 'loss'} {quality} in Keras"
    table = Table(
        title=Text(f"{title} ({report.examples} examples)"),
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("file", no_wrap=True)
    for heading in ("kB", "kB zstd", "sparsity", metric or "loss", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("runs on")
    for row in report.exports:
        table.add_row(*_cells(row, metric))
    for failure in report.failures:
        table.add_row(failure.format.file, *"–––––", Text("could not be made", "yellow"))
    return table


def _quality(metric: str | None, metrics: Mapping[str, float | None], loss: float | None) -> str:
    return _number(loss, ".4g") if metric is None else _number(metrics.get(metric), ".4f")


def _cells(row: Exported, metric: str | None) -> list[str | Text]:
    quality = _quality(metric, row.metrics, row.loss)
    return [
        Text(f"{row.path}{' !' if row.merges_integers else ''}", "yellow" if row.merges_integers else ""),
        Text(f"{row.bytes / 1000:,.1f}{' !' if row.no_smaller else ''}", "yellow" if row.no_smaller else ""),
        f"{row.bytes_compressed / 1000:,.1f}",
        _number(row.sparsity.overall, ".3f"),
        Text(f"{quality} !" if row.degraded else quality, "yellow" if row.degraded or row.loss is None else ""),
        _number(row.max_difference, ".2g"),
        ", ".join(f"{tried.runtime} {tried.version}" for tried in row.runs_on if tried.ok) or "nothing here",
    ]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
