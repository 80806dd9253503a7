"""From a run's newest checkpoint to verified .tflite files. TensorFlow does its part in a process of its own.

Stripping needs no step of its own: a checkpoint holds the weights alone, and the model that is built around them
was never wrapped.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import zstandard

from export.converter import Converter, ConverterProcess, Job, Trial
from export.dead_units import LivingModel, check_alike, without_dead_units
from export.examples import choose_examples, complaints_of
from export.input_rounding import merges_integers, whole_numbers_spanned
from export.report import FILE, Exported, Failure, Format, Report, judged_by
from export.signature import signature_of
from export.verify import Verdict, judge
from export.zeros import count_zeros
from fedprune.data import Dataset, fit_to, load_examples
from fedprune.data.normalization import inputs_of
from fedprune.errors import DataError, ExportError, ProtocolError
from fedprune.model.tensors import Array, Inputs, weights_digest
from fedprune.prediction.metadata import with_metadata
from fedprune.pruning.schedules import misses_target, steps_to_reach_target
from fedprune.runtime.tflite import default_runtime
from fedprune.slimming.unit_masks import units_by_layer
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle, Task, load_bundle
from fedprune.task.checkpoints import Checkpoint, load_latest
from fedprune.task.evaluation import Evaluation, score
from fedprune.task.file_metadata import metadata_of
from fedprune.task.forms import Form
from fedprune.task.padding import counted_places
from fedprune.task.run_directory import HELD_OUT, TASK
from fedprune.task.units import Units, units_of

_ZSTD_LEVEL = 19
_TOLERANCE = 1e-3
"""The most that fp32 may be off Keras, relative to the largest output: rounding is far below, a mistake far above."""

_POINTS_TO_MISS, _LOSS_TO_NOTICE = 0.01, 1.05
"""By how much less of a metric that it is judged by, or how many times the loss without one, a format is degraded."""

_COMPARED = 256
"""Examples on which a model without its dead units is compared with the whole one."""

OnStep = Callable[[str], None]
"""Told of each step as it begins."""

Opener = Callable[[Job], AbstractContextManager[Converter]]
"""Makes what converts, for as long as it takes."""


@dataclass(frozen=True, eq=False)
class Exportable:
    """A run's newest checkpoint, and examples: `held_out` to verify files on, `calibration` for int8 (None for a part
    of the former)."""

    bundle: Bundle
    checkpoint: Checkpoint
    held_out: Dataset
    calibration: Dataset | None


def exportable(run: Path, data: Path | None) -> Exportable:
    """Read what can be exported of an aggregator's state directory.

    int8 is calibrated with `data`, or else with a part of the held-out examples, on which then nothing is verified.
    Where agents evaluate the gateway has none: a part of `data` then stands in for them.

    Raises:
        StorageError: `run` is no such directory, or its files are damaged.
        DataError: examples cannot be read.
    """
    checkpoint = load_latest(run)
    bundle = load_bundle(run / TASK)
    form = bundle.task.data
    given = None if data is None else load_examples(data, form)
    if (run / HELD_OUT).exists():
        return Exportable(bundle, checkpoint, load_examples(run / HELD_OUT, form), given)
    if given is None:
        raise DataError(
            f"{run}: no {HELD_OUT} in it to verify files on, since its agents evaluate; name some with --data"
        )
    return Exportable(bundle, checkpoint, given, None)


def export_run(run: Path, data: Path | None, out: Path, formats: Sequence[Format], on_step: OnStep) -> Report:
    """Export the newest checkpoint of an aggregator's state directory, verified on examples: see `exportable`.

    Raises:
        StorageError: `run` is no such directory, its files are damaged, or `out` cannot be written.
        DataError: examples cannot be read or do not fit the task.
        ExportError, TaskError: see `export_model`.
    """
    found = exportable(run, data)
    return export_model(found.bundle, found.checkpoint, found.held_out, out, formats, on_step, found.calibration)


def has_dead_units(found: Exportable) -> bool:
    """True where an export removes units. Raises `ExportError` if the checkpoint is not of the task."""
    form, _ = _form_of(found.checkpoint, found.bundle)
    bundle = found.bundle.in_form(form)
    _check_checkpoint(found.checkpoint, bundle.task)
    return bool(without_dead_units(bundle.network, bundle.task.table, found.checkpoint.weights).removed)


def export_model(
    bundle: Bundle,
    checkpoint: Checkpoint,
    held_out: Dataset,
    out: Path,
    formats: Sequence[Format],
    on_step: OnStep,
    calibration: Dataset | None = None,
    open_converter: Opener = ConverterProcess,
    *,
    keep_units: bool = False,
) -> Report:
    """Convert, verify, and write the files and `exports.json` into `out`.

    A format that cannot be made is one of the report's `failures`; the others are made. `choose_examples` says which of
    `held_out` and `calibration` are used. Units that no output depends on are removed first, where the federation's
    network has not lost them yet; with `keep_units` they stay. There are at most `3 + 2 * len(formats)` steps.

    Raises:
        ExportError: fp32 answers differently from Keras, or runs nowhere; there is no runtime; the checkpoint is not of
            this task; or TensorFlow does not even evaluate the model. Nothing is written then.
        TaskError: the bundle's model cannot be built.
        DataError: examples do not fit the task.
        StorageError: `out` cannot be written.
    """
    directory = Directory(out)
    default_runtime()
    task_form, gone = _form_of(checkpoint, bundle)
    bundle = bundle.in_form(task_form)
    task = bundle.task
    examples = choose_examples(_fit(held_out, bundle), None if calibration is None else _fit(calibration, bundle))
    data = examples.verification
    _check_whole(task)
    counted = counted_places(bundle.network, list(data.inputs.values()))
    _check_checkpoint(checkpoint, task)
    units = units_of(task)
    living = LivingModel if keep_units else without_dead_units
    model = living(bundle.network, task.table, checkpoint.weights)
    if model.removed:
        on_step("Evaluating the model before units are removed")
    whole = _whole_answers(bundle, checkpoint, data, open_converter) if model.removed else None
    signature = signature_of(bundle.network)
    metadata = metadata_of(bundle, signature.inputs, signature.outputs)
    files: dict[Format, bytes] = {}
    verdicts: dict[Format, Verdict] = {}
    failures = []
    with open_converter(
        Job(
            model.network,
            tuple(model.table),
            model.weights,
            list(data.inputs.values()),
            list(examples.calibration.inputs.values()),
            units,
        )
    ) as converter:
        on_step("Evaluating the Keras model")
        expected = converter.evaluate()
        if whole is not None:
            check_alike(whole, [answers[:_COMPARED] for answers in expected])
        for form in formats:
            try:
                on_step(f"Converting to {form}")
                content = converter.convert(form)
                on_step(f"Verifying {form}")
                trial = _as_learned(converter.run(), units)
            except ExportError as error:
                failures.append(Failure(form, str(error)))
                continue
            files[form] = with_metadata(content, metadata)
            verdicts[form] = judge(trial, data, task.output_forms, expected, counted)
            if form is Format.FP32:
                _check_fp32(verdicts[form], 0.0 if units is None else units.rounding)
    in_keras = score([expected], data, task.output_forms, counted).evaluation
    x = dict(zip(signature.inputs, examples.calibration.inputs.values(), strict=True))
    exports = [_describe(form, files, verdicts[form], in_keras, model, x) for form in files]
    report = Report(
        task=task.name,
        run=checkpoint.run,
        version=checkpoint.version,
        weights_sha256=weights_digest(checkpoint.weights),
        sparsity=task_form.sparsity(checkpoint.weights),
        removed_units=dict(Counter(gone) + Counter(model.removed)),
        parameters=model.table.parameters,
        target_sparsity=task.pruning.schedule.target_sparsity,
        examples=len(data),
        calibration_examples=len(examples.calibration),
        normalize=inputs_of(task.data),
        keras_loss=in_keras.loss,
        keras_metrics=dict(in_keras.metrics),
        exports=tuple(exports),
        failures=tuple(failures),
        warnings=(
            *_missed_target(task, checkpoint, task_form.sparsity(checkpoint.weights)),
            *complaints_of(examples, calibrates=Format.INT8 in formats),
            *(_worse(row, in_keras) for row in exports if row.degraded),
            *(_no_smaller(row, files[Format.FP32]) for row in exports if row.no_smaller),
            *(_merging(row, files[row.format]) for row in exports if row.merges_integers),
        ),
    )
    on_step("Writing")
    _write(directory, files, report)
    return report


def _form_of(checkpoint: Checkpoint, bundle: Bundle) -> tuple[Form, dict[str, int]]:
    """The form that a checkpoint is in, and how many units its network has lost, by the layer that made them."""
    try:
        form = bundle.forms.of(checkpoint.units)
    except ProtocolError as error:
        raise _not_of(checkpoint, bundle.task, error) from error
    if form.units is None or form.is_whole:
        return form, {}
    return form, units_by_layer(bundle.forms.groups, ~form.units)


def _fit(data: Dataset, bundle: Bundle) -> Dataset:
    return fit_to(data, bundle.network.input_forms, bundle.task.output_forms)


def _check_whole(task: Task) -> None:
    if local := sorted({spec.layer for spec in task.table.local}):
        raise ExportError(
            f"task {task.name!r}: layer {local[0]!r} stays on the devices, so the run has no whole model to export; "
            "build a task without model.local to have one"
        )


def _check_checkpoint(checkpoint: Checkpoint, task: Task) -> None:
    try:
        task.table.check(checkpoint.weights)
    except ProtocolError as error:
        raise _not_of(checkpoint, task, error) from error


def _not_of(checkpoint: Checkpoint, task: Task, error: ProtocolError) -> ExportError:
    return ExportError(
        f"checkpoint {checkpoint.version} is not of task {task.name!r} ({error}); "
        "restore the task that the aggregator put beside its checkpoints"
    )


def _whole_answers(bundle: Bundle, checkpoint: Checkpoint, data: Dataset, open_converter: Opener) -> list[Array]:
    """What the model with all of its units answers to the first examples."""
    first = [array[:_COMPARED] for array in data.inputs.values()]
    with open_converter(Job(bundle.network, bundle.task.tensors, checkpoint.weights, first, [])) as converter:
        return converter.evaluate()


def _as_learned(trial: Trial, units: Units | None) -> Trial:
    """The trial with answers as the Keras model gives them."""
    if units is None or trial.answers is None:
        return trial
    return replace(trial, answers=[units.normalized(answers) for answers in trial.answers])


def _check_fp32(verdict: Verdict, rounding: float) -> None:
    if verdict.relative_difference is None:
        reasons = "; ".join(f"{tried.runtime} {tried.version}: {tried.error}" for tried in verdict.runs_on)
        raise ExportError(f"fp32 was converted, but runs nowhere here: {reasons}")
    if not verdict.relative_difference <= _TOLERANCE + rounding:
        raise ExportError(
            f"fp32 answers differently from the Keras model: by up to {verdict.max_difference:.2g}, which is "
            f"{verdict.relative_difference:.2g} of the largest answer; {_TOLERANCE:g} of it is allowed. The converter "
            "is at fault: nothing was written; build the task from other layers"
        )


def _describe(
    form: Format,
    files: dict[Format, bytes],
    verdict: Verdict,
    in_keras: Evaluation,
    model: LivingModel,
    x: Mapping[str, Inputs],
) -> Exported:
    content, fp32 = files[form], files.get(Format.FP32)
    return Exported(
        path=form.file,
        format=form,
        bytes=len(content),
        bytes_compressed=len(zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(content)),
        sha256=hashlib.sha256(content).hexdigest(),
        sparsity=count_zeros(content, model.weights, model.table),
        loss=verdict.evaluation.loss if verdict.evaluation else None,
        metrics=dict(verdict.evaluation.metrics) if verdict.evaluation else {},
        max_difference=verdict.max_difference,
        degraded=verdict.evaluation is not None and _is_degraded(verdict.evaluation, in_keras),
        no_smaller=None if fp32 is None else form is not Format.FP32 and len(content) >= len(fp32),
        merges_integers=merges_integers(content, x),
        runs_on=verdict.runs_on,
    )


def _is_degraded(evaluation: Evaluation, in_keras: Evaluation) -> bool:
    if not judged_by(in_keras.metrics):
        return not evaluation.loss <= _LOSS_TO_NOTICE * in_keras.loss
    return bool(_worse_metrics(evaluation.metrics, in_keras))


def _worse_metrics(found: Mapping[str, float | None], in_keras: Evaluation) -> list[str]:
    """A phrase for each metric that a file is judged by and in which it is degraded."""
    pairs = ((name, found[name], in_keras.metrics[name]) for name in judged_by(in_keras.metrics))
    return [
        f"{name} {'not defined' if value is None else f'{value:.4f}'}, not {wanted:.4f}"
        for name, value, wanted in pairs
        if wanted is not None and (value is None or wanted - value > _POINTS_TO_MISS)
    ]


def _worse(row: Exported, in_keras: Evaluation) -> str:
    figures = "; ".join(_worse_metrics(row.metrics, in_keras)) or f"loss {row.loss:.4g}, not {in_keras.loss:.4g}"
    advice = "; calibrate it with examples like those that it will see (--data)" if row.format is Format.INT8 else ""
    return f"{row.path} is worse than the Keras model: {figures}{advice}"


def _no_smaller(row: Exported, fp32: bytes) -> str:
    reason = ": TFLite leaves tensors of fewer than 1,024 numbers as they are" if row.format is Format.DYNAMIC else ""
    return f"{row.path} is no smaller than {Format.FP32.file} ({row.bytes:,} bytes, not {len(fp32):,}){reason}"


def _merging(row: Exported, content: bytes) -> str:
    spanned = max(whole_numbers_spanned(content).values())
    return (
        f"{row.path} rounds its inputs to 256 of the {spanned:,} whole numbers in their range, "
        "and the examples are whole numbers: if these are names (token ids, classes), take another format"
    )


def _missed_target(task: Task, checkpoint: Checkpoint, found: float) -> Iterator[str]:
    """A line if the model is less sparse than its schedule wants it, and the reason where that is the schedule."""
    schedule = task.pruning.schedule
    if not misses_target(schedule, found):
        return
    steps, per_round = steps_to_reach_target(schedule), task.training.clock_steps_per_round
    if steps is None:
        reason = "no run reaches it, since the schedule's updates are too seldom: see its frequency"
    elif checkpoint.version * per_round < steps:
        reason = f"the schedule needs {math.ceil(steps / per_round)} rounds, {checkpoint.version} are done"
    else:
        reason = "some tensors have too many equal weights"
    yield f"the model's sparsity is {found:.2f}, the task's target {schedule.target_sparsity:g}: {reason}"


def _write(directory: Directory, files: dict[Format, bytes], report: Report) -> None:
    """The report comes last and the former one goes first: there is never one that describes other files.

    Nor does a former file stay that could be taken for the one that could not be made.
    """
    directory.delete(FILE)
    for failure in report.failures:
        directory.delete(failure.format.file)
    for form, content in files.items():
        directory.write(form.file, content)
    directory.write(FILE, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
