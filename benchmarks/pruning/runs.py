"""One federation of a recipe and a seed, from everybody's examples to exported files. It imports TensorFlow."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.federation import DENSE_CODEC
from benchmarks.latency.measure import Settings, measure
from benchmarks.latency.results import Measured
from benchmarks.pruning.federation import Outcome, federate
from benchmarks.pruning.recipes import RECIPES
from benchmarks.pruning.results import Run
from benchmarks.pruning.tasks import TASKS, task_settings
from export.build import build_task
from export.exporting import export_model
from export.report import Exported, Format, Report
from fedprune.codecs import Values
from fedprune.data import load_examples
from fedprune.errors import ExportError
from fedprune.task.bundle import Bundle, read_bundle

FORMATS = (Format.FP32, Format.INT8)
TUNED_SEEDS = frozenset({1, 2})
"""Those on which recipes were chosen."""
_INFERENCES = 200


def run_recipe(task: str, name: str, seed: int, rounds: int, dense_accuracy: float | None) -> Run:
    """Federate and export. `rounds` are those of a recipe that takes once as many; `dense_accuracy` is None for dense.

    Raises `FedpruneError`s.
    """
    recipe = RECIPES[name]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        prepared = TASKS[task].scenario.prepare(seed, path / "data")
        settings = task_settings(TASKS[task], prepared, recipe, seed, rounds * recipe.stretch)
        bundle = read_bundle(build_task(settings, path))
        values = Values.FP32 if recipe.codec == DENSE_CODEC else Values.FP16
        outcome = federate(bundle, path / "data", recipe.codec, values, seed, rounds * recipe.stretch)
        report, latencies = _export(bundle, outcome, path)
    fp32, int8 = (_exported(report, form) for form in FORMATS)
    return Run(
        name=name if task == "images" else f"{task}: {name}",
        task=task,
        recipe=name,
        seed=seed,
        tuned=seed in TUNED_SEEDS,
        source=prepared.source,
        rounds=rounds * recipe.stretch,
        sparsity=report.sparsity,
        units_removed=recipe.units,
        accuracy=outcome.accuracy,
        dense_accuracy=outcome.accuracy if dense_accuracy is None else dense_accuracy,
        parameters=report.parameters,
        bytes_tflite=fp32.bytes,
        bytes_tflite_compressed=fp32.bytes_compressed,
        p50_ms=latencies[fp32.path],
        int8_accuracy=int8.metrics.get("accuracy"),
        int8_bytes_tflite=int8.bytes,
        int8_bytes_tflite_compressed=int8.bytes_compressed,
        int8_p50_ms=latencies[int8.path],
        train_step_ms_first=outcome.train_step_ms_first,
        train_step_ms_last=outcome.train_step_ms_last,
        bytes_up=outcome.bytes_up,
        bytes_down=outcome.bytes_down,
    )


def _export(bundle: Bundle, outcome: Outcome, path: Path) -> tuple[Report, dict[str, float | None]]:
    """The report on files of the last model, calibrated with an agent's examples, and the median latency of each."""
    held_out, own = (load_examples(path / "data" / f"{name}.npz", bundle.task.data) for name in ("held-out", "agent-0"))
    out = path / "export"
    report = export_model(bundle, outcome.checkpoint, held_out, out, FORMATS, lambda _: None, own)
    paths = [out / exported.path for exported in report.exports]
    rows = measure(paths, Settings(num_runs=_INFERENCES)).models
    return report, {Path(row.path).name: row.latency_ms.p50 if isinstance(row, Measured) else None for row in rows}


def _exported(report: Report, form: Format) -> Exported:
    found = [exported for exported in report.exports if exported.format is form]
    if not found:
        raise ExportError(f"the benchmark's model could not be made {form}: {report.failures}")
    return found[0]
