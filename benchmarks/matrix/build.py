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
from benchmarks.matrix.candidates import Candidate, Matrix, Refused, mark_efficient, recommend
from benchmarks.matrix.card import Card, files_on_card, to_markdown
from benchmarks.matrix.picture import draw
from export.exporting import export_run
from export.report import KNOWN_TO_FAIL, Exported, Format, Report, judged_by
from fedprune import __version__
from fedprune.model.metrics import metric_named
from fedprune.model.tensors import TensorClass
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle, load_bundle
from fedprune.task.checkpoints import Checkpoint, load_checkpoint, load_latest
from fedprune.task.run_directory import BOOK, CHECKPOINTS, TASK

FILES = ("matrix.json", "matrix.png", "model-card.json", "model-card.md")
"""What is written beside the exports."""
_MASKED = "masked"
"""The model as its run left it: pruned weights are zeros."""
_DEFLATE_LEVEL = 9


@dataclass(frozen=True)
class _History:
    """What a run's book tells of its agents."""

    agents: int | None
    spreads: Mapping[str, Spread]


def build_matrix(
    run: Path,
    data: Path | None,
    out: Path,
    settings: Settings,
    on_step: Callable[[str], None],
    on_turn: Callable[[Path], None],
) -> tuple[Matrix, Report]:
    """Write the files, `exports.json`, and `FILES` into `out`. See `export.exporting.export_run` for the examples.

    Raises:
        StorageError, DataError, ExportError, TaskError: as `export_run` does.
    """
    history = _history(run, load_latest(run).version)  # before what takes long: a book may be refused
    report = export_run(run, data, out, list(Format), on_step)
    files = [out / row.path for row in report.exports if any(tried.ok for tried in row.runs_on)]
    latencies = measure(files, settings, on_turn)
    matrix = _join(report, latencies, out)
    bundle = load_bundle(run / TASK)
    checkpoint = load_checkpoint(Directory(run / CHECKPOINTS), report.version)
    card = _card(matrix, report, bundle, checkpoint, history)
    contents = (to_json(matrix), draw(matrix), to_json(card), to_markdown(card).encode())
    directory = Directory(out)
    for name, content in zip(FILES, contents, strict=True):
        directory.write(name, content)
    return matrix, report


def _join(report: Report, latencies: Latencies, out: Path) -> Matrix:
    metric = next(iter(judged_by(report.keras_metrics)), None)
    measured = {Path(row.path).name: row for row in latencies.measured}
    candidates = mark_efficient(
        [_candidate(row, measured.get(row.path), metric, (out / row.path).read_bytes()) for row in report.exports]
    )
    return Matrix(
        task=report.task,
        run=report.run,
        version=report.version,
        metric=metric or "loss",
        keras_quality=report.keras_loss if metric is None else report.keras_metrics[metric],
        machine=latencies.machine,
        candidates=candidates,
        refused=(
            *(Refused(_MASKED, failure.format, failure.error) for failure in report.failures),
            *(Refused(_MASKED, name, reason) for name, reason in KNOWN_TO_FAIL.items()),
        ),
        recommendation=recommend(candidates, latencies.flags),
        flags=latencies.flags,
    )


def _candidate(row: Exported, latency: Measured | None, metric: str | None, content: bytes) -> Candidate:
    quality = row.loss if metric is None else row.metrics.get(metric)
    is_loss = metric is None or not metric_named(metric).larger_is_better
    return Candidate(
        model=_MASKED,
        format=row.format,
        path=row.path,
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


def _history(run: Path, version: int) -> _History:
    """Of the rounds that made this version of the model."""
    if not (run / BOOK).exists():
        return _History(None, {})
    book = Book.open(run / BOOK)
    try:
        records = [record for record in book.records() if record.round < version]
        agents = len(book.last_accepted(version))
    finally:
        book.close()
    return _History(agents, records[-1].spreads if records else {})


def _card(matrix: Matrix, report: Report, bundle: Bundle, checkpoint: Checkpoint, history: _History) -> Card:
    recommended, machine = matrix.recommendation, matrix.machine
    form = bundle.forms.of(checkpoint.units)
    return Card(
        written=datetime.now(UTC).replace(microsecond=0),
        fedprune=__version__,
        task=report.task,
        run=report.run,
        version=report.version,
        rounds=report.version,
        agents=history.agents,
        parameters=bundle.task.table.parameters,
        sparsity=report.sparsity,
        target_sparsity=report.target_sparsity,
        sparsity_by_layer={
            spec.name: float(np.mean(form.expand(spec.name, checkpoint.weights[spec.name]) == 0))
            for spec in bundle.task.table.of(TensorClass.PRUNABLE)
        },
        weights_sha256=report.weights_sha256,
        metric=matrix.metric,
        quality=matrix.keras_quality,
        examples=report.examples,
        calibration_examples=report.calibration_examples,
        spreads=dict(history.spreads),
        machine=", ".join(filter(None, (machine.board, machine.cpu, machine.architecture, machine.os))),
        recommended=recommended.path if recommended else None,
        reason=recommended.reason if recommended else None,
        files=files_on_card(matrix.candidates),
        warnings=report.warnings,
    )
