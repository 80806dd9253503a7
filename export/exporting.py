"""From a run's newest checkpoint to verified .tflite files. Importing this module imports TensorFlow.

Stripping needs no step of its own: a checkpoint holds the weights alone, and the model that is built around them
was never wrapped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zstandard

from export.convert import convert
from export.report import FILE, Exported, Format, Report
from export.verify import Verdict, verify
from export.zeros import count_zeros
from fedprune.data import Dataset, fit_to, load_npz
from fedprune.errors import ExportError, ProtocolError
from fedprune.keras.model import build_model
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, weights_digest
from fedprune.runtime.tflite import default_runtime
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle, load_bundle
from fedprune.task.checkpoints import Checkpoint, load_latest
from fedprune.task.evaluation import score
from fedprune.task.run_directory import HELD_OUT, TASK

_MAX_EXAMPLES = 10_000
_REPRESENTATIVE = 200
_KERAS_BATCH = 256
_ZSTD_LEVEL = 19
_TOLERANCE = 1e-3
"""The most that fp32 may be off Keras, relative to the largest output: rounding is far below, a mistake far above."""

OnStep = Callable[[str], None]
"""Told of each step as it begins."""


def export_run(run: Path, data: Path | None, out: Path, formats: Sequence[Format], on_step: OnStep) -> Report:
    """Export the newest checkpoint of an aggregator's state directory, verified on `data` (default: its held-out).

    Raises:
        StorageError: `run` is no such directory, its files are damaged, or `out` cannot be written.
        DataError: `data` cannot be read or does not fit the task.
        ExportError, TaskError: see `export_model`.
    """
    checkpoint = load_latest(run)
    bundle = load_bundle(run / TASK)
    examples = load_npz(run / HELD_OUT if data is None else data)
    return export_model(bundle, checkpoint, examples, out, formats, on_step)


def export_model(
    bundle: Bundle, checkpoint: Checkpoint, data: Dataset, out: Path, formats: Sequence[Format], on_step: OnStep
) -> Report:
    """Convert, verify on (at most 10,000 examples of) `data`, and write the files and `exports.json` into `out`.

    int8 is calibrated with 200 of the examples, not with their labels. Nothing is written unless every format could
    be converted. There are `2 + 2 * len(formats)` steps.

    Raises:
        ExportError: a format cannot express the model, fp32 answers differently from Keras, there is no runtime, or
            the checkpoint is not of this task.
        TaskError: the bundle's model cannot be built.
        DataError: `data` do not fit the task.
        StorageError: `out` cannot be written.
    """
    directory = Directory(out)
    default_runtime()
    task = bundle.task
    data = _sample(fit_to(data, task.input_shape, task.outputs, task.training.loss), _MAX_EXAMPLES)
    on_step("Evaluating the Keras model")
    model = _load(bundle, checkpoint)
    expected = model.predict(data.x, batch_size=_KERAS_BATCH, verbose=0)
    files: dict[str, bytes] = {}
    exports = []
    for form in formats:
        on_step(f"Converting to {form}")
        files[form.file] = content = convert(model, form, _sample(data, _REPRESENTATIVE).x)
        on_step(f"Verifying {form}")
        verdict = verify(content, data, task.objective, expected)
        if form is Format.FP32:
            _check_fp32(verdict, expected)
        exports.append(_describe(form, content, verdict, bundle, checkpoint))
    in_keras = score(expected, data, task.objective)
    report = Report(
        task=task.name,
        run=checkpoint.run,
        version=checkpoint.version,
        weights_sha256=weights_digest(checkpoint.weights),
        examples=len(data),
        keras_accuracy=in_keras.accuracy,
        keras_loss=in_keras.loss,
        exports=tuple(exports),
    )
    on_step("Writing")
    _write(directory, files, report)
    return report


def _sample(data: Dataset, size: int) -> Dataset:
    """`data`, or `size` of its examples where there are more: files are often sorted by label."""
    if len(data) <= size:
        return data
    return data.take(np.sort(Keyed(0, "export", size).permutation(len(data))[:size]))


def _load(bundle: Bundle, checkpoint: Checkpoint) -> Any:
    try:
        bundle.task.table.check(checkpoint.weights)
    except ProtocolError as error:
        raise ExportError(
            f"checkpoint {checkpoint.version} is not of task {bundle.task.name!r} ({error}); "
            "restore the task that the aggregator put beside its checkpoints"
        ) from error
    model, variables = build_model(bundle.task, bundle.model_json)
    for name, variable in variables.items():
        variable.assign(checkpoint.weights[name])
    return model


def _check_fp32(verdict: Verdict, expected: Array) -> None:
    if verdict.max_difference is None:
        reasons = "; ".join(f"{tried.runtime} {tried.version}: {tried.error}" for tried in verdict.runs_on)
        raise ExportError(f"fp32 was converted, but runs nowhere here: {reasons}")
    allowed = _TOLERANCE * float(np.abs(expected).max())
    if not verdict.max_difference <= allowed:
        raise ExportError(
            f"fp32 answers differently from the Keras model: by up to {verdict.max_difference:.2g}, {allowed:.2g} is "
            "allowed. The converter is at fault: nothing was written; build the task from other layers"
        )


def _describe(form: Format, content: bytes, verdict: Verdict, bundle: Bundle, checkpoint: Checkpoint) -> Exported:
    return Exported(
        path=form.file,
        format=form,
        bytes=len(content),
        bytes_compressed=len(zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(content)),
        sha256=hashlib.sha256(content).hexdigest(),
        sparsity=count_zeros(content, checkpoint.weights, bundle.task.table),
        accuracy=verdict.evaluation.accuracy if verdict.evaluation else None,
        loss=verdict.evaluation.loss if verdict.evaluation else None,
        max_difference=verdict.max_difference,
        runs_on=verdict.runs_on,
    )


def _write(directory: Directory, files: dict[str, bytes], report: Report) -> None:
    """The report comes last and the former one goes first: there is never one that describes other files."""
    directory.delete(FILE)
    for name, content in files.items():
        directory.write(name, content)
    directory.write(FILE, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
