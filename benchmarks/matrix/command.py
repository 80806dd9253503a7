"""The command `fedprune matrix`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from benchmarks.command_line import to_json
from benchmarks.latency.measure import Settings, turns
from benchmarks.latency.table import digits, ratio_text
from benchmarks.matrix.build import FILES, build_matrix, plan_matrix
from benchmarks.matrix.candidates import Candidate, Matrix
from export.export_command import FormatsFailed
from export.report import Format
from fedprune.errors import ExportError
from fedprune.runtime.tflite import one_line
from fedprune.system.table import table_lines

_RUNS = 200
_HEADINGS = ("file", "kB", "kB zstd", "p50 ms", "p90 ms", "vs first", "MB", "", "")


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Examples to calibrate int8 with, as for `fedprune export`.  [default: a part of RUN/held-out.npz]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where they go.  [default: RUN/export]",
)
@click.option(
    "--num_runs",
    type=click.IntRange(1, 1_000_000),
    default=_RUNS,
    show_default=True,
    help="Timed inferences of each file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print matrix.json instead of a table.")
def matrix(run: Path, data: Path | None, out: Path | None, num_runs: int, as_json: bool) -> None:
    """Export a run's model every way, measure each file here, and recommend one.

    RUN is an aggregator's state directory. fp32, fp16, dynamic and int8, and fp32 and fp16 in sparse encoding, are made
    and verified as `fedprune export` does, then measured in turns as `fedprune benchmark` does. Where units are dead
    the same is done with the model that keeps them, in DIR/masked. Combinations that are known to fail are refused with
    the reason. Beside the files are matrix.json, matrix.png (accuracy against latency
    and size; files are efficient that no other one beats in all three, the Pareto front), and a model card,
    model-card.json and model-card.md.

    \b
    Example:
      fedprune matrix runs/demo/run --out models
    """
    out = run / "export" if out is None else out
    settings = Settings(num_runs=num_runs)
    plan = plan_matrix(run, data)
    steps = len(plan.models) * (3 + 2 * len(Format) + len(Format) * turns(settings))
    with click.progressbar(length=steps, label="Exporting and measuring", file=sys.stderr) as progress:
        found, reports = build_matrix(plan, out, settings, lambda _: progress.update(1), lambda _: progress.update(1))
    if as_json:
        click.echo(to_json(found), nl=False)
    else:
        _show(found, out)
    failures = {(model, each.format): each.error for model, report in reports.items() for each in report.failures}
    if failures:
        reasons = " | ".join(f"{model} {form}: {error}" for (model, form), error in failures.items())
        if not found.candidates:
            raise ExportError(f"no format could be made: {reasons}")
        raise FormatsFailed(f"some formats could not be made, the others are there: {reasons}")


def _show(found: Matrix, out: Path) -> None:
    headings = [*_HEADINGS[:3], found.metric, *_HEADINGS[3:]]
    rows = [_cells(each, found) for each in found.candidates]
    click.echo("\n".join(table_lines(headings, rows, left=(0, 8, 9))))
    click.echo("; ".join(f"{model}: {count:,} parameters" for model, count in found.parameters.items()))
    if found.why_one_model:
        click.echo(f"One model alone: {found.why_one_model}.")
    for refused in found.refused:
        click.secho(f"Not made: {refused.model} {refused.format}: {one_line(refused.reason)}", fg="yellow")
    for flag in found.flags:
        click.secho(f"Not to be trusted ({flag.disturbance}): {flag.told}.", fg="yellow")
    if found.recommendation is None:
        click.secho("No file is as good as the Keras model and runs here.", fg="yellow")
    else:
        click.echo(f"Recommended: {found.recommendation.path}. {found.recommendation.reason}.")
    click.echo(f"{', '.join(FILES)} are in {out}")


def _cells(each: Candidate, found: Matrix) -> list[str]:
    recommended = found.recommendation is not None and found.recommendation.path == each.path
    return [
        each.path,
        f"{each.bytes / 1000:,.1f}",
        f"{each.bytes_zstd / 1000:,.1f}",
        "–" if each.quality is None else f"{each.quality:.4f}",
        "–" if each.p50_ms is None else digits(each.p50_ms),
        "–" if each.p90_ms is None else digits(each.p90_ms),
        ratio_text(each.ratio),
        "–" if each.peak_memory_mb is None else f"{each.peak_memory_mb:.1f}",
        "efficient" if each.is_efficient else "",
        "recommended" if recommended else "degraded" if each.degraded else "",
    ]
