"""Exports of models that take whole numbers, as token ids are: int8 inputs that would round them are marked."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from keras_bundles import CLASSES, INPUT_SHAPE, bundle_of, perceptron, seeded, weights_of

from export.export_command import export
from export.exporting import export_model
from export.report import Format, Report
from export.workbench import Workbench
from fedprune.data import Dataset, save_npz
from fedprune.model.tensors import Array
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.system.disk import Directory
from fedprune.task.bundle import load_bundle
from fedprune.task.checkpoints import Checkpoint, load_latest, save_checkpoint
from fedprune.task.run_directory import CHECKPOINTS, HELD_OUT, TASK

EXAMPLES = 240


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    model = seeded(perceptron())
    schedule = ConstantSparsity(begin_step=1, frequency=1, target_sparsity=0.0)
    bundle = bundle_of(model, schedule, mask=MaskPolicy.SHARED)
    weights = weights_of(model)
    checkpoint = Checkpoint(run="a-run", version=1, weights=weights, exact=weights, mask={})
    save_checkpoint(Directory(path / CHECKPOINTS), checkpoint)
    (path / TASK).write_bytes(bundle.blob)
    return path


def numbers_below(bound: int) -> Array:
    drawn = np.random.default_rng(0).integers(bound, size=(EXAMPLES, *INPUT_SHAPE)).astype(np.float32)
    drawn[:, 0, 0], drawn[:, 1, 0] = 0.0, bound - 1.0
    return drawn


def held_out(x: Array) -> Dataset:
    return Dataset(x, np.arange(EXAMPLES, dtype=np.int64) % CLASSES)


def test_an_int8_input_that_would_round_token_ids_is_marked(run: Path, tmp_path: Path) -> None:
    save_npz(run / HELD_OUT, held_out(numbers_below(1000)))
    arguments = [str(run), "--formats", "fp16,int8", "--out", str(tmp_path)]
    shown = CliRunner().invoke(export, arguments, catch_exceptions=False).output

    report = msgspec.json.decode((tmp_path / "exports.json").read_bytes(), type=Report)
    assert [row.merges_integers for row in report.exports] == [False, True]
    told = "int8.tflite rounds its inputs to 256 of the 1,000 whole numbers in their range"
    assert report.warnings[-1].startswith(told)
    assert "int8.tflite ! " in shown
    assert f"Warning: {told}" in " ".join(shown.split())


@pytest.mark.parametrize("x", [numbers_below(256), numbers_below(1000) + np.float32(0.25)], ids=["bytes", "real"])
def test_bytes_and_real_numbers_are_not_marked(run: Path, tmp_path: Path, x: Array) -> None:
    report = export_model(
        load_bundle(run / TASK),
        load_latest(run),
        held_out(x),
        tmp_path,
        [Format.INT8],
        lambda _: None,
        open_converter=lambda job: nullcontext(Workbench(job)),
    )
    assert [row.merges_integers for row in report.exports] == [False]
    assert not any("whole numbers" in line for line in report.warnings)
