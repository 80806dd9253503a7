"""Export a run's model every way, measure each file, and write what came of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from aggregator.book import Book, Spread
from benchmarks.command_line import to_json
from benchmarks.latency.measure import Settings, measure
from benchmarks.latency.results import Measured
from benchmarks.latency.results import Report as Latencies
from benchmarks.matrix.candidates import Candidate, Matrix, Model, Refused, mark_efficient, recommend
from benchmarks.matrix.card import Card, files_on_card, to_markdown
from benchmarks.matrix.picture import draw
from export.exporting import Exportable, export_model, exportable, has_dead_units
from export.report import FILE, KNOWN_TO_FAIL, Exported, Format, Report, judged_by
from fedprune import __version__
from fedprune.model.metrics import metric_named
from fedprune.model.tensors import TensorClass
from fedprune.system.disk import Directory
from fedprune.task.forms import Form
from fedprune.task.run_directory import BOOK

FILES = ("matrix.json", "matrix.png", "model-card.json", "model-card.md")
"""What is written beside the exports."""
MASKED_DIRECTORY = "masked"
"""Of the files of a model that keeps its dead units: those beside it are what `fedprune export` makes."""
_DEFLATE_LEVEL = 9

_NO_UNITS = "no unit is dead, so that the slimmed model is the masked one"
_SLIMMED_BEFORE = "the network became smaller while the federation ran, and no unit is left to remove"


@dataclass(frozen=True, eq=False)
class Plan:
    """What is exported of a run, and each model that its files are made of, the masked one first.

    `why_one` is the reason where there is one alone, else empty. `of_agents` are the spreads over `agents` agents in
    the round that made the model; None, and empty, where the run has no book.
    """

    source: Exportable
    form: Form
    models: tuple[Model, ...]
    why_one: str
    agents: int | None
    of_agents: Mapping[str, Spread]


def plan_matrix(run: Path, data: Path | None) -> Plan:
    """Read a run: see `export.exporting.exportable` for the examples.

    Raises:
        StorageError, DataError, ExportError: as `exportable` and `has_dead_units` do.
    """
    source = exportable(run, data)
    agents, spreads = _history(run, source.checkpoint.version)
    loses_units = has_dead_units(source)
    form = source.bundle.forms.of(source.checkpoint.units)
    if loses_units:
        return Plan(source, form, (Model.MASKED, Model.SLIMMED), "", agents, spreads)
    if form.is_whole:
        return Plan(source, form, (Model.MASKED,), _NO_UNITS, agents, spreads)
    return Plan(source, form, (Model.SLIMMED,), _SLIMMED_BEFORE, agents, spreads)


def build_matrix(
    plan: Plan, out: Path, settings: Settings, on_step: Callable[[str], None], on_turn: Callable[[Path], None]
) -> tuple[Matrix, Mapping[Model, Report]]:
    """Write the files, `exports.json`, and `FILES` into `out`, those of a masked model beside a slimmed one into
    `MASKED_DIRECTORY`.

    Raises:
        StorageError, DataError, ExportError, TaskError: as `export_model` does.
    """
    source, directories = plan.source, _directories(plan, out)
    if Model.MASKED not in directories or directories[Model.MASKED] == out:
        _discard(out / MASKED_DIRECTORY)
    reports = {
        model: export_model(
            source.bundle,
            source.checkpoint,
            source.held_out,
            directory,
            list(Format),
            on_step,
            source.calibration,
            keep_units=model is Model.MASKED,
        )
        for model, directory in directories.items()
    }
    files = [
        directories[model] / row.path
        for model, report in reports.items()
        for row in report.exports
        if any(tried.ok for tried in row.runs_on)
    ]
    matrix = _join(plan, reports, measure(files, settings, on_turn), directories, out)
    card = _card(plan, matrix, reports)
    contents = (to_json(matrix), draw(matrix), to_json(card), to_markdown(card).encode())
    directory = Directory(out)
    for name, content in zip(FILES, contents, strict=True):
        directory.write(name, content)
    return matrix, reports


def _directories(plan: Plan, out: Path) -> dict[Model, Path]:
    return {
        model: out / MASKED_DIRECTORY if model is Model.MASKED and len(plan.models) > 1 else out
        for model in plan.models
    }


def _discard(path: Path) -> None:
    """Delete the files that an earlier matrix made of a model, since this one has no such model."""
    if not path.is_dir():
        return
    directory = Directory(path)
    for name in (FILE, *(form.file for form in Format)):
        directory.delete(name)


def _join(
    plan: Plan, reports: Mapping[Model, Report], latencies: Latencies, directories: Mapping[Model, Path], out: Path
) -> Matrix:
    report = _best_known(reports)
    metric = next(iter(judged_by(report.keras_metrics)), None)
    measured = {Path(row.path): row for row in latencies.measured}
    candidates = mark_efficient(
        [
            _candidate(model, row, measured.get(path), metric, path.read_bytes(), str(path.relative_to(out)))
            for model, each in reports.items()
            for row in each.exports
            for path in [directories[model] / row.path]
        ]
    )
    return Matrix(
        task=report.task,
        run=report.run,
        version=report.version,
        metric=metric or "loss",
        keras_quality=report.keras_loss if metric is None else report.keras_metrics[metric],
        machine=latencies.machine,
        parameters={model: each.parameters for model, each in reports.items()},
        why_one_model=plan.why_one,
        candidates=candidates,
        refused=(
            *(Refused(model, each.format, each.error) for model, report in reports.items() for each in report.failures),
            *(Refused(model, name, reason) for model in reports for name, reason in KNOWN_TO_FAIL.items()),
        ),
        recommendation=recommend(candidates, latencies.flags),
        flags=latencies.flags,
    )


def _best_known(reports: Mapping[Model, Report]) -> Report:
    """The report that tells of the run as a whole: the last, which is that of `fedprune export`."""
    return list(reports.values())[-1]


def _candidate(
    model: Model, row: Exported, latency: Measured | None, metric: str | None, content: bytes, path: str
) -> Candidate:
    quality = row.loss if metric is None else row.metrics.get(metric)
    is_loss = metric is None or not metric_named(metric).larger_is_better
    return Candidate(
        model=model,
        format=row.format,
        path=path,
        bytes=row.bytes,
        bytes_zstd=row.bytes_compressed,
        bytes_deflate=len(zlib.compress(content, _DEFLATE_LEVEL)),
        sha256=row.sha256,
        sparsity=row.sparsity,
        quality=quality,
        goodness=-quality if quality is not None and is_loss else quality,
        degraded=row.degraded,
        merges_integers=row.merges_integers,
        runs_on=row.runs_on,
        p50_ms=latency.latency_ms.p50 if latency else None,
        p90_ms=latency.latency_ms.p90 if latency else None,
        peak_memory_mb=latency.peak_memory_mb if latency else None,
        ratio=latency.ratio if latency else None,
        sparse_kernels=latency.sparse_kernels if latency else None,
    )


def _history(run: Path, version: int) -> tuple[int | None, dict[str, Spread]]:
    """The number of agents, and the figures' spreads over them, of the rounds that made this version of the model."""
    if not (run / BOOK).exists():
        return None, {}
    book = Book.open(run / BOOK)
    try:
        records = [record for record in book.records() if record.round < version]
        agents = len(book.last_accepted(version))
    finally:
        book.close()
    return agents, dict(records[-1].spreads) if records else {}


def _card(plan: Plan, matrix: Matrix, reports: Mapping[Model, Report]) -> Card:
    recommended, machine, report = matrix.recommendation, matrix.machine, _best_known(reports)
    table, weights = plan.source.bundle.task.table, plan.source.checkpoint.weights
    return Card(
        written=datetime.now(UTC).replace(microsecond=0),
        fedprune=__version__,
        task=report.task,
        run=report.run,
        version=report.version,
        rounds=report.version,
        agents=plan.agents,
        parameters=table.parameters,
        parameters_by_model=matrix.parameters,
        removed_units=report.removed_units,
        sparsity=report.sparsity,
        target_sparsity=report.target_sparsity,
        sparsity_by_layer={
            spec.name: float(np.mean(plan.form.expand(spec.name, weights[spec.name]) == 0))
            for spec in table.of(TensorClass.PRUNABLE)
        },
        weights_sha256=report.weights_sha256,
        metric=matrix.metric,
        quality=matrix.keras_quality,
        examples=report.examples,
        calibration_examples=report.calibration_examples,
        spreads=dict(plan.of_agents),
        machine=", ".join(filter(None, (machine.board, machine.cpu, machine.architecture, machine.os))),
        recommended=recommended.path if recommended else None,
        reason=recommended.reason if recommended else None,
        files=files_on_card(matrix.candidates),
        warnings=tuple(dict.fromkeys(line for each in reports.values() for line in each.warnings)),
    )
