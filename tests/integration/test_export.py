"""Exporting a run: the real converter, the real runtime, real files."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from click.testing import CliRunner
from exported_runs import ALL, DATA, SCHEDULE, Run, export_here, files_in, run_of
from keras_bundles import (
    CLASSES,
    INPUT_SHAPE,
    bundle_of,
    convolutional,
    perceptron,
    relabelled,
    seeded,
    weights_of,
)

from export import exporting
from export.architecture import tensor_table
from export.convert import convert
from export.examples import choose_examples, complaints_of
from export.export_command import export
from export.exporting import export_run
from export.report import Format, Report
from export.signature import Signature
from export.zeros import count_zeros
from fedprune.data import Dataset, save_npz
from fedprune.keras.stack import keras
from fedprune.model.losses import Loss
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, TensorClass, TensorTable, sparsity, weights_digest
from fedprune.prediction import load_model
from fedprune.pruning.masks import apply_mask
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import PolynomialDecay
from fedprune.runtime.tflite import default_runtime, predict
from fedprune.slimming.groups import dependency_groups
from fedprune.slimming.selection import UnitAllocation, choose_units
from fedprune.slimming.unit_masks import prunable_unit_mask
from fedprune.system.disk import Directory
from fedprune.task.checkpoints import Checkpoint, save_checkpoint
from fedprune.task.run_directory import CHECKPOINTS


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command converts as `export_here` does."""
    monkeypatch.setattr(exporting, "export_model", export_here)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of(convolutional(), tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def report(run: Run) -> Report:
    return export_run(run.path, None, run.path / "export", ALL, lambda _: None)


def test_the_report_describes_the_files_and_the_newest_checkpoint(run: Run, report: Report) -> None:
    out = run.path / "export"
    assert files_in(out) == ["dynamic.tflite", "exports.json", "fp16.tflite", "fp32.tflite", "int8.tflite"]
    assert msgspec.json.decode((out / "exports.json").read_bytes(), type=Report) == report
    assert (report.task, report.run, report.version) == ("test", "a-run", 3)
    assert report.weights_sha256 == weights_digest(run.checkpoint.weights)
    for row in report.exports:
        content = (out / row.path).read_bytes()
        assert row.bytes == len(content)
        assert row.sha256 == hashlib.sha256(content).hexdigest()
        assert row.bytes_compressed == len(zstandard.compress(content, 19)) < row.bytes
        runtime = default_runtime()
        assert [(tried.runtime, tried.version, tried.ok) for tried in row.runs_on] == [
            (runtime.name, runtime.version, True)
        ]


def test_every_file_says_itself_what_its_inputs_and_outputs_are(run: Run, report: Report) -> None:
    expected = run.model.predict(DATA.x[:40], verbose=0).argmax(axis=1)
    for row in report.exports:
        model = load_model(run.path / "export" / row.path)
        assert (model.metadata.task, model.metadata.data) == ("test", run.bundle.task.data)
        answers = [answer for (answer,) in model.answer({"x": DATA.x[:40]})]
        right = [int(answer.label or -1) == label for answer, label in zip(answers, expected, strict=True)]
        assert np.mean(right) >= 0.9
        assert all(answer.probability is not None and answer.probability > 0.3 for answer in answers)


def test_every_format_answers_as_keras_does(run: Run, report: Report) -> None:
    data = choose_examples(DATA, None).verification
    expected = run.model.predict(data.x, verbose=0)
    learned = float(np.mean(expected.argmax(axis=1) == data.y))
    assert learned > 2 / CLASSES
    assert report.keras_metrics == {"accuracy": learned}
    assert (report.examples, report.calibration_examples) == (len(DATA) / 2, len(DATA) / 2)
    for row in report.exports:
        answers = predict(default_runtime().interpreter(run.path / "export" / row.path), data.x)
        assert row.max_difference == np.abs(answers - expected).max()
        assert row.metrics["accuracy"] == np.mean(answers.argmax(axis=1) == data.y)
        assert row.metrics["accuracy"] == pytest.approx(learned, abs=0.03)
    fp32, fp16, dynamic, int8 = (row.max_difference for row in report.exports)
    assert fp32 < 1e-5 < fp16 < int8
    assert dynamic < int8 < 0.1 * np.abs(expected).max()


def test_units_that_no_output_depends_on_are_not_in_the_files(run: Run, tmp_path: Path) -> None:
    table = run.bundle.task.table
    groups = dependency_groups(run.bundle.network, table)
    kept = choose_units(groups, run.checkpoint.weights, 0.5, UnitAllocation.UNIFORM)
    weights = apply_mask(run.checkpoint.weights, prunable_unit_mask(groups, kept))
    checkpoint = replace(run.checkpoint, weights=weights, exact=weights)

    report = export_here(run.bundle, checkpoint, DATA, tmp_path, [Format.FP32, Format.INT8], lambda _: None)

    assert sorted(report.removed_units.values()) == [3, 4]
    assert report.parameters < table.parameters / 2
    assert report.sparsity == pytest.approx(sparsity(weights, table))
    run.model.set_weights(list(weights.values()))
    expected = run.model.predict(choose_examples(DATA, None).verification.x, verbose=0)
    run.model.set_weights(list(run.checkpoint.weights.values()))
    for row in report.exports:
        interpreter: Any = default_runtime().interpreter(tmp_path / row.path)
        sizes = {math.prod(detail["shape"]) for detail in interpreter.get_tensor_details()}
        answers = predict(interpreter, choose_examples(DATA, None).verification.x)
        assert {3 * 3 * 1 * 3, 3 * 3 * 3 * 4, 2 * 2 * 4 * CLASSES} <= sizes
        assert not {3 * 3 * 1 * 6, 3 * 3 * 6 * 8, 2 * 2 * 8 * CLASSES} & sizes
        assert np.abs(answers - expected).max() < (1e-5 if row.format is Format.FP32 else 0.1) * np.abs(expected).max()


def test_inputs_are_a_batch_of_one_and_int8_only_where_it_is_asked_for(run: Run, report: Report) -> None:
    for row in report.exports:
        interpreter = default_runtime().interpreter(run.path / "export" / row.path)
        (source,), (sink,) = interpreter.get_input_details(), interpreter.get_output_details()
        assert tuple(source["shape_signature"]) == (1, *INPUT_SHAPE)
        assert tuple(sink["shape"]) == (1, CLASSES)
        assert source["dtype"] is sink["dtype"] is (np.int8 if row.format is Format.INT8 else np.float32)


def test_sparsity_is_that_of_the_files_kernels(run: Run, report: Report) -> None:
    table, weights = run.bundle.task.table, run.checkpoint.weights
    zeros = {spec.name: float(np.mean(weights[spec.name] == 0)) for spec in table.of(TensorClass.PRUNABLE)}
    assert min(zeros.values()) > 0.5
    for row in report.exports:
        if row.format in (Format.FP32, Format.FP16):
            assert row.sparsity.by_tensor == zeros
            assert row.sparsity.overall == sparsity(weights, table)
        else:  # small weights round to zero; none stops being zero
            assert list(row.sparsity.by_tensor) == list(zeros)
            assert all(
                zeros[name] <= (found or 0.0) < zeros[name] + 0.05 for name, found in row.sparsity.by_tensor.items()
            )


def test_a_kernel_is_found_by_its_content_not_its_shape(run: Run, report: Report) -> None:
    fp32 = (run.path / "export" / report.exports[0].path).read_bytes()
    kernel = run.bundle.task.table.of(TensorClass.PRUNABLE)[0].name
    elsewhere_zero = {**run.checkpoint.weights, kernel: run.checkpoint.weights[kernel][::-1]}
    found = count_zeros(fp32, elsewhere_zero, run.bundle.task.table)
    assert found.by_tensor[kernel] is None
    assert found.overall is None
    assert sum(value is None for value in found.by_tensor.values()) == 1


def test_kernels_are_found_whatever_the_converter_makes_of_their_layers() -> None:
    x = keras.layers.Input(INPUT_SHAPE)
    y = keras.layers.BatchNormalization()(keras.layers.Conv2DTranspose(6, 3, strides=2)(x))
    y = keras.layers.Conv2D(6, 1, activation="relu")(keras.layers.DepthwiseConv2D(3)(y))
    y = keras.layers.Conv1D(6, 3)(keras.layers.Reshape((-1, 6))(keras.layers.Conv2D(6, 1)(y)))
    y = keras.layers.Dense(6, activation="relu")(keras.layers.GlobalAveragePooling1D()(y))
    model = seeded(keras.Model(x, keras.layers.Dense(CLASSES)(keras.layers.Dense(6)(y))))
    table = TensorTable(tensor_table(model))  # not all of these layers can be described
    weights = {spec.name: variable.numpy() for spec, variable in zip(table, model.weights, strict=True)}
    for density, spec in zip((0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), table.of(TensorClass.PRUNABLE), strict=True):
        kept = Keyed(0, "keep", spec.name).uniform(spec.size, 0.0, 1.0) < density
        weights[spec.name] *= kept.reshape(spec.shape)
    model.set_weights(list(weights.values()))
    for form in (Format.FP32, Format.INT8):
        found = count_zeros(convert(model, form, Signature(), [DATA.x[:2]]), weights, table)
        for name, fraction in found.by_tensor.items():
            assert fraction == pytest.approx(np.mean(weights[name] == 0), abs=0.1 if form is Format.INT8 else 0)


def test_the_command_writes_equal_bytes_in_another_process_and_keeps_the_terminal_clean(
    run: Run, report: Report, tmp_path: Path
) -> None:
    program = "from export.export_command import export; export()"
    arguments = [str(run.path), "--json", "--formats", "int8, fp32", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    shown = msgspec.json.decode(done.stdout, type=Report)
    assert [row.format for row in shown.exports] == [Format.FP32, Format.INT8]
    assert {row.format: row.sha256 for row in shown.exports}.items() <= {
        row.format: row.sha256 for row in report.exports
    }.items()
    assert files_in(tmp_path) == ["exports.json", "fp32.tflite", "int8.tflite"]


@pytest.mark.usefixtures("in_this_process")
def test_the_command_shows_a_table(run: Run, tmp_path: Path) -> None:
    shown = CliRunner().invoke(
        export, [str(run.path), "--formats", "fp16", "--out", str(tmp_path)], catch_exceptions=False
    )
    assert "test, version 3" in shown.output
    assert "100 examples" in shown.output
    assert "fp16.tflite" in shown.output
    assert default_runtime().version in shown.output
    assert "Warning" not in shown.output


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    "degenerate",
    [
        lambda x: np.full_like(x, 0.5),
        lambda x: 1e-3 * x,
        lambda x: 1e-3 * x[:1],
    ],
    ids=["constant", "another scale", "one"],
)
def test_examples_that_calibrate_int8_badly_cannot_vouch_for_it(
    run: Run, tmp_path: Path, degenerate: Callable[[Array], Array]
) -> None:
    """Files are verified on the run's held-out examples, whatever calibrates them."""
    x = degenerate(DATA.x)
    save_npz(tmp_path / "bad.npz", Dataset(x, DATA.y[: len(x)]))
    arguments = [str(run.path), "--formats", "fp32,int8", "--data", str(tmp_path / "bad.npz"), "--out", str(tmp_path)]
    shown = CliRunner().invoke(export, arguments, catch_exceptions=False)

    report = msgspec.json.decode((tmp_path / "exports.json").read_bytes(), type=Report)
    fp32, int8 = report.exports
    assert (report.examples, report.calibration_examples) == (len(DATA), len(x))
    of_int8, in_keras = int8.metrics["accuracy"], report.keras_metrics["accuracy"]
    assert fp32.metrics["accuracy"] == in_keras
    assert of_int8 is not None
    assert in_keras is not None
    assert of_int8 < in_keras - 0.01
    assert (fp32.degraded, int8.degraded) == (False, True)
    assert f" {of_int8:.4f} ! " in shown.output
    assert f"Warning: int8.tflite is worse than the Keras model: accuracy {of_int8:.4f}" in shown.output
    assert report.warnings[-1].startswith("int8.tflite is worse")


_ENOUGH = np.linspace(0, 1, 150, dtype=np.float32)


@pytest.mark.parametrize(
    ("x", "warnings"),
    [
        (DATA.x[:40], ["on 40 examples, among all 40 different ones: 100 are needed"]),
        (np.repeat(DATA.x[:3], 50, axis=0), ["on 150 examples, among all 3 different ones: 100 are needed"]),
        (
            np.repeat(_ENOUGH, DATA.x[0].size).reshape(150, *DATA.x.shape[1:]),
            ["on examples of which 150 in 150 are one number throughout; is x what it should be?"],
        ),
        (_ENOUGH[:, None], []),
        (DATA.x, []),
    ],
    ids=["few", "alike", "constant", "single numbers", "good"],
)
def test_examples_that_say_little_are_told(x: Array, warnings: list[str]) -> None:
    data = Dataset(x, np.zeros(len(x), np.int64))
    chosen = choose_examples(data, data)
    verified = [f"verified {line}" for line in warnings]
    assert complaints_of(chosen, calibrates=False) == verified
    assert complaints_of(chosen, calibrates=True) == [*verified, *(f"int8 calibrated {line}" for line in warnings)]


@pytest.mark.parametrize(("count", "aside"), [(2, 1), (3, 1), (200, 100), (1000, 200)])
def test_nothing_is_verified_on_what_it_was_calibrated_with(count: int, aside: int) -> None:
    data = Dataset(np.arange(count, dtype=np.float32)[:, None], np.zeros(count, np.int64))
    chosen = choose_examples(data, None)
    calibration, verification = ({float(x) for x in part.x[:, 0]} for part in (chosen.calibration, chosen.verification))
    assert not calibration & verification
    assert (len(calibration), len(verification)) == (aside, count - aside)


def test_a_model_that_missed_its_target_says_which_run_would_reach_it(run: Run, tmp_path: Path) -> None:
    schedule = PolynomialDecay(initial_sparsity=0.0, target_sparsity=0.9, begin_step=0, end_step=100, frequency=10)
    task = run.bundle.task
    pruning = msgspec.structs.replace(task.pruning, schedule=schedule)
    bundle = replace(run.bundle, task=msgspec.structs.replace(task, pruning=pruning))
    report = export_here(bundle, run.checkpoint, DATA, tmp_path, [Format.FP32], lambda _: None)

    rounds = math.ceil(100 / task.training.steps_per_round)
    assert report.target_sparsity == 0.9
    assert report.sparsity == sparsity(run.checkpoint.weights, task.table)
    assert report.warnings == (
        f"the model's sparsity is {report.sparsity:.2f}, the task's target 0.9: "
        f"the schedule needs {rounds} rounds, 3 are done",
    )


_UTF_8, _LATIN_1 = b"gr\xc3\xb6\xc3\x9fe", b"caf\xe9"
_ASCII = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("name", "python"),
    [
        pytest.param(_UTF_8, _ASCII, id="UTF-8, ASCII"),
        pytest.param(_LATIN_1, {}, id="Latin-1, C"),
        pytest.param(_UTF_8, {}, id="UTF-8, C", marks=pytest.mark.slow),
        pytest.param(_LATIN_1, _ASCII, id="Latin-1, ASCII", marks=pytest.mark.slow),
    ],
)
def test_a_run_may_have_any_name_in_any_locale(run: Run, tmp_path: Path, name: bytes, python: dict[str, str]) -> None:
    path = os.fsencode(tmp_path) + b"/" + name
    shutil.copytree(run.path, os.fsdecode(path), ignore=shutil.ignore_patterns("export"))
    done = subprocess.run(
        [sys.executable, "-m", "fedprune.command", "export", path, "--formats", "fp32", "--out", path + b"/out"],
        capture_output=True,
        env=os.environ | {"LC_ALL": "C"} | python,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode(errors="replace")
    assert b"are in " in done.stdout
    assert (Path(os.fsdecode(path)) / "out" / "fp32.tflite").exists()


@pytest.mark.usefixtures("in_this_process")
def test_what_is_measured_in_errors_shows_its_loss(tmp_path: Path) -> None:
    squared = Loss.MEAN_SQUARED_ERROR
    model, data = seeded(perceptron()), relabelled(DATA, squared, CLASSES)
    bundle = bundle_of(model, SCHEDULE, mask=MaskPolicy.SHARED, loss=squared, from_logits=False)
    (tmp_path / exporting.TASK).write_bytes(bundle.blob)
    weights = weights_of(model)
    save_checkpoint(Directory(tmp_path / CHECKPOINTS), Checkpoint("a-run", 1, weights, weights, {}))
    save_npz(tmp_path / exporting.HELD_OUT, data)
    verified = choose_examples(data, None).verification
    expected = float(np.square(model.predict(verified.x, verbose=0) - verified.y).mean())

    shown = CliRunner().invoke(export, [str(tmp_path), "--formats", "fp32"], catch_exceptions=False)
    report = msgspec.json.decode((tmp_path / "export" / "exports.json").read_bytes(), type=Report)

    assert f"version 1: loss {expected:.4g} in Keras" in shown.output
    assert " accuracy " not in shown.output
    assert f" {expected:.4g} " in shown.output.partition("fp32.tflite")[2]
    for metrics in (report.keras_metrics, report.exports[0].metrics):
        assert metrics["root_mean_squared_error"] == pytest.approx(expected**0.5, rel=1e-4)
    assert report.keras_loss == pytest.approx(expected, rel=1e-5)
    assert report.exports[0].loss == pytest.approx(expected, rel=1e-4)


def test_of_many_examples_a_fair_sample_is_taken(run: Run, tmp_path: Path) -> None:
    right = np.tile(run.model.predict(DATA.x, verbose=0).argmax(axis=1), 50)
    first_half_right = np.concatenate([right, (right + 1) % CLASSES])
    many = Dataset(np.tile(DATA.x, (100, 1, 1, 1)), first_half_right)
    report = export_here(run.bundle, run.checkpoint, many, tmp_path, [Format.FP32], lambda _: None)
    assert report.examples == 10_000
    assert report.keras_metrics["accuracy"] == pytest.approx(0.5, abs=0.03)
    assert report.exports[0].metrics == report.keras_metrics
