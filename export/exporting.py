"""From a run's newest checkpoint to verified .tflite files. Importing this module imports TensorFlow.

Stripping needs no step of its own: a checkpoint holds the weights alone, and the model that is built around them
was never wrapped.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zstandard

from export.convert import convert
from export.examples import choose_examples, complaints_of
from export.report import FILE, Exported, Format, Report
from export.verify import Verdict, verify
from export.zeros import count_zeros
from fedprune.data import Dataset, fit_to, load_npz
from fedprune.errors import ExportError, ProtocolError
from fedprune.keras.model import build_model
from fedprune.model.tensors import Array, sparsity, weights_digest
from fedprune.pruning.schedules import misses_target, steps_to_reach_target
from fedprune.runtime.tflite import default_runtime
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle, Task, load_bundle
from fedprune.task.checkpoints import Checkpoint, load_latest
from fedprune.task.evaluation import Evaluation, score
from fedprune.task.run_directory import HELD_OUT, TASK

_KERAS_BATCH = 256
_ZSTD_LEVEL = 19
_TOLERANCE = 1e-3
"""The most that fp32 may be off Keras, relative to the largest output: rounding is far below, a mistake far above."""

_ACCURACY_TO_MISS, _LOSS_TO_NOTICE = 0.01, 1.05
"""By how much less accuracy, or how many times the loss where there is none, a format is degraded."""

OnStep = Callable[[str], None]
"""Told of each step as it begins."""


def export_run(run: Path, data: Path | None, out: Path, formats: Sequence[Format], on_step: OnStep) -> Report:
    """Export the newest checkpoint of an aggregator's state directory, verified on its held-out examples.

    int8 is calibrated with `data`, or else with a part of the held-out examples, on which then nothing is verified.

    Raises:
        StorageError: `run` is no such directory, its files are damaged, or `out` cannot be written.
        DataError: examples cannot be read or do not fit the task.
        ExportError, TaskError: see `export_model`.
    """
    checkpoint = load_latest(run)
    bundle = load_bundle(run / TASK)
    calibration = None if data is None else load_npz(data)
    return export_model(bundle, checkpoint, load_npz(run / HELD_OUT), out, formats, on_step, calibration)


def export_model(
    bundle: Bundle,
    checkpoint: Checkpoint,
    held_out: Dataset,
    out: Path,
    formats: Sequence[Format],
    on_step: OnStep,
    calibration: Dataset | None = None,
) -> Report:
    """Convert, verify, and write the files and `exports.json` into `out`. Nothing is written unless every format could
    be converted.

    `choose_examples` says which of `held_out` and `calibration` are used. There are `2 + 2 * len(formats)` steps.

    Raises:
        ExportError: a format cannot express the model, fp32 answers differently from Keras, there is no runtime, or
            the checkpoint is not of this task.
        TaskError: the bundle's model cannot be built.
        DataError: examples do not fit the task.
        StorageError: `out` cannot be written.
    """
    directory = Directory(out)
    default_runtime()
    task = bundle.task
    examples = choose_examples(_fit(held_out, task), None if calibration is None else _fit(calibration, task))
    data = examples.verification
    on_step("Evaluating the Keras model")
    model = _load(bundle, checkpoint)
    expected = model.predict(data.x, batch_size=_KERAS_BATCH, verbose=0)
    files: dict[str, bytes] = {}
    in_keras = score(expected, data, task.objective)
    exports = []
    for form in formats:
        on_step(f"Converting to {form}")
        files[form.file] = content = convert(model, form, examples.calibration.x)
        on_step(f"Verifying {form}")
        verdict = verify(content, data, task.objective, expected)
        if form is Format.FP32:
            _check_fp32(verdict, expected)
        exports.append(_describe(form, content, verdict, in_keras, bundle, checkpoint))
    report = Report(
        task=task.name,
        run=checkpoint.run,
        version=checkpoint.version,
        weights_sha256=weights_digest(checkpoint.weights),
        sparsity=sparsity(checkpoint.weights, task.table),
        target_sparsity=task.pruning.schedule.target_sparsity,
        examples=len(data),
        calibration_examples=len(examples.calibration),
        keras_accuracy=in_keras.accuracy,
        keras_loss=in_keras.loss,
        exports=tuple(exports),
        warnings=(
            *_missed_target(task, checkpoint),
            *complaints_of(examples, calibrates=Format.INT8 in formats),
            *(_worse(row, in_keras) for row in exports if row.degraded),
        ),
    )
    on_step("Writing")
    _write(directory, files, report)
    return report


def _fit(data: Dataset, task: Task) -> Dataset:
    return fit_to(data, task.input_shape, task.outputs, task.training.loss)


def _load(bundle: Bundle, checkpoint: Checkpoint) -> Any:
    try:
        bundle.task.table.check(checkpoint.weights)
    except ProtocolError as error:
        raise ExportError(
            f"checkpoint {checkpoint.version} is not of task {bundle.task.name!r} ({error}); "
            "restore the task that the aggregator put beside its checkpoints"
        ) from error
    model, variables = build_model(bundle.network, bundle.task.table)
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


def _describe(
    form: Format, content: bytes, verdict: Verdict, in_keras: Evaluation, bundle: Bundle, checkpoint: Checkpoint
) -> Exported:
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
        degraded=verdict.evaluation is not None and _is_degraded(verdict.evaluation, in_keras),
        runs_on=verdict.runs_on,
    )


def _is_degraded(evaluation: Evaluation, in_keras: Evaluation) -> bool:
    if evaluation.accuracy is not None and in_keras.accuracy is not None:
        return in_keras.accuracy - evaluation.accuracy > _ACCURACY_TO_MISS
    return not evaluation.loss <= _LOSS_TO_NOTICE * in_keras.loss


def _worse(row: Exported, in_keras: Evaluation) -> str:
    if row.accuracy is not None:
        figures = f"accuracy {row.accuracy:.4f}, not {in_keras.accuracy:.4f}"
    else:
        figures = f"loss {row.loss:.4g}, not {in_keras.loss:.4g}"
    advice = "; calibrate it with examples like those that it will see (--data)" if row.format is Format.INT8 else ""
    return f"{row.path} is worse than the Keras model: {figures}{advice}"


def _missed_target(task: Task, checkpoint: Checkpoint) -> Iterator[str]:
    """A line if the model is less sparse than its schedule wants it, and the reason where that is the schedule."""
    schedule, found = task.pruning.schedule, sparsity(checkpoint.weights, task.table)
    if not misses_target(schedule, found):
        return
    steps, per_round = steps_to_reach_target(schedule), task.training.steps_per_round
    if steps is None:
        reason = "no run reaches it, since the schedule's updates are too seldom: see its frequency"
    elif checkpoint.version * per_round < steps:
        reason = f"the schedule needs {math.ceil(steps / per_round)} rounds, {checkpoint.version} are done"
    else:
        reason = "some tensors have too many equal weights"
    yield f"the model's sparsity is {found:.2f}, the task's target {schedule.target_sparsity:g}: {reason}"


def _write(directory: Directory, files: dict[str, bytes], report: Report) -> None:
    """The report comes last and the former one goes first: there is never one that describes other files."""
    directory.delete(FILE)
    for name, content in files.items():
        directory.write(name, content)
    directory.write(FILE, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
