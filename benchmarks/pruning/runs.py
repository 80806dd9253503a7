"""Federations of the demo's task: dense, without half of the units, and sparse besides."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from benchmarks.demo.rerun import rerun_demo, settled_accuracy
from benchmarks.demo.result import DemoResult, ExportResult
from fedprune.errors import ExportError

RECIPES = {
    "dense": ("--sparsity", "0"),
    "half": ("--sparsity", "0", "--units", "0.5"),
    "half + 80 %": ("--sparsity", "0.95", "--units", "0.5"),
}
"""The demo's options. Half of CNN-108k's units leaves a quarter of its weights, and 80 % of these make it 95 %."""


class Run(msgspec.Struct, frozen=True):
    """One recipe and seed. Accuracies are fractions, means of the last five rounds, of this run and of the dense one
    with its seed; files are of fp32, and of int8 where it is said."""

    name: str
    seed: int
    source: str
    sparsity: float
    units_removed: float
    accuracy: float
    dense_accuracy: float
    parameters: int
    bytes_tflite: int
    bytes_tflite_compressed: int
    p50_ms: float | None
    int8_accuracy: float | None
    int8_bytes_tflite: int
    int8_bytes_tflite_compressed: int
    int8_p50_ms: float | None
    bytes_up: int
    bytes_down: int


def runs_of(seed: int, options: Iterable[str]) -> list[Run]:
    """All recipes with a seed, on the same data. `options` are of all."""
    results = {name: rerun_demo(seed, *recipe, *options) for name, recipe in RECIPES.items()}
    return [_run(name, seed, result, results["dense"]) for name, result in results.items()]


def _run(name: str, seed: int, result: DemoResult, dense: DemoResult) -> Run:
    fp32, int8 = _export(result, "fp32"), _export(result, "int8")
    return Run(
        name=name,
        seed=seed,
        source=result.source,
        sparsity=result.model.sparsity,
        units_removed=result.settings["units"],
        accuracy=_accuracy(result),
        dense_accuracy=_accuracy(dense),
        parameters=result.model.exported_parameters,
        bytes_tflite=fp32.bytes,
        bytes_tflite_compressed=fp32.bytes_compressed,
        p50_ms=fp32.p50_ms,
        int8_accuracy=int8.accuracy,
        int8_bytes_tflite=int8.bytes,
        int8_bytes_tflite_compressed=int8.bytes_compressed,
        int8_p50_ms=int8.p50_ms,
        bytes_up=sum(entry.bytes_up for entry in result.rounds),
        bytes_down=sum(entry.bytes_down for entry in result.rounds),
    )


def _accuracy(result: DemoResult) -> float:
    return settled_accuracy([entry.accuracy for entry in result.rounds])


def _export(result: DemoResult, form: str) -> ExportResult:
    found = [export for export in result.exports if export.format == form]
    if not found:
        raise ExportError(f"the demo made no {form}")
    return found[0]
