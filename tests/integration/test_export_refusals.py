"""Exports that are refused: the converter errs, a disk is full, or a person asks for what there is not."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from click.testing import CliRunner
from exported_runs import ALL, DATA, SCHEDULE, Run, export_here, files_in, here, run_of
from flatbuffers import Builder
from keras_bundles import (
    bundle_of,
    convolutional,
    perceptron,
)

from export import exporting
from export.convert import convert
from export.export_command import export
from export.exporting import export_model
from export.report import Format, Report
from export.signature import Signature
from export.workbench import Workbench
from fedprune.data import Dataset
from fedprune.errors import ConfigurationError, DataError, ExportError, FedpruneError, StorageError
from fedprune.keras.stack import keras
from fedprune.pruning.policy import MaskPolicy


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of(convolutional(), tmp_path_factory.mktemp("run"))


def test_a_converter_that_makes_mistakes_is_found_out(run: Run, tmp_path: Path) -> None:
    class WithoutBiases(Workbench):
        def convert(self, form: Format) -> bytes:
            self._model.set_weights([0 * array if array.ndim == 1 else array for array in self._model.get_weights()])
            return super().convert(form)

    with pytest.raises(ExportError, match="fp32 answers differently from the Keras model"):
        export_model(
            run.bundle, run.checkpoint, DATA, tmp_path, ALL, lambda _: None, open_converter=here(WithoutBiases)
        )
    assert files_in(tmp_path) == []


def test_a_file_that_runs_nowhere_is_reported_and_refused_if_it_is_fp32(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FromTheFuture(Workbench):
        def convert(self, form: Format) -> bytes:
            model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(super().convert(form)))
            for code in model.operatorCodes:
                code.version = 99
            builder = Builder()
            builder.Finish(model.Pack(builder), b"TFL3")
            self._made = bytes(builder.Output())
            return self._made

    export_from_the_future = partial(export_model, open_converter=here(FromTheFuture))
    monkeypatch.setattr(exporting, "export_model", export_from_the_future)
    arguments = [str(run.path), "--formats", "int8", "--out", str(tmp_path)]
    shown = CliRunner().invoke(export, arguments, catch_exceptions=False)
    assert "nothing here" in shown.output
    assert "version 99" in shown.output
    (row,) = msgspec.json.decode((tmp_path / "exports.json").read_bytes(), type=Report).exports
    assert (row.metrics, row.max_difference) == ({}, None)
    assert [tried.ok for tried in row.runs_on] == [False]
    with pytest.raises(ExportError, match=r"fp32 was converted, but runs nowhere here: .* version 99"):
        export_from_the_future(run.bundle, run.checkpoint, DATA, tmp_path, [Format.FP32], lambda _: None)


@pytest.mark.parametrize("form", [Format.FP32, Format.INT8])
def test_a_layer_that_tflite_cannot_express_is_named(form: Format) -> None:
    layers = [keras.layers.Input((4, 4, 4, 1)), keras.layers.AveragePooling3D(), keras.layers.Flatten()]
    with pytest.raises(ExportError, match=rf"cannot be converted to {form}: .* AvgPool3D; leave {form} out"):
        convert(keras.Sequential(layers), form, Signature(), [np.zeros((2, 4, 4, 4, 1), np.float32)])


def test_a_checkpoint_of_another_task_is_refused(run: Run, tmp_path: Path) -> None:
    other = bundle_of(perceptron(), SCHEDULE, mask=MaskPolicy.SHARED)
    with pytest.raises(ExportError, match="checkpoint 3 is not of task 'test'"):
        export_model(other, run.checkpoint, DATA, tmp_path, ALL, lambda _: None)


def test_data_that_do_not_fit_are_refused(run: Run, tmp_path: Path) -> None:
    narrow = Dataset(DATA.x[:, :, :5], DATA.y, "narrow.npz")
    with pytest.raises(DataError, match=r"narrow\.npz: an example of x is 8x5x1"):
        export_model(run.bundle, run.checkpoint, narrow, tmp_path, ALL, lambda _: None)


def test_a_full_disk_leaves_the_file_that_was_there_but_no_report_of_another(run: Run, tmp_path: Path) -> None:
    for name in ("fp32.tflite", "exports.json"):
        (tmp_path / name).write_bytes(b"former")
    with ExitStack() as limits:
        steps = {"Writing": lambda: limits.enter_context(files_limited_to(1000))}
        with pytest.raises(StorageError, match=r"fp32\.tflite: File too large"):
            export_here(run.bundle, run.checkpoint, DATA, tmp_path, [Format.FP32], lambda step: steps.get(step, int)())
    assert files_in(tmp_path) == ["fp32.tflite"]
    assert (tmp_path / "fp32.tflite").read_bytes() == b"former"


def test_a_disk_without_room_for_the_converters_own_files_is_told(run: Run, tmp_path: Path) -> None:
    with files_limited_to(1000), pytest.raises(ExportError, match="is there room for them"):
        export_model(run.bundle, run.checkpoint, DATA, tmp_path, [Format.FP32], lambda _: None)


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """As a full disk would: the system refuses to write more into a file. Python leaves no half of what it compiled."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        patch.setattr(sys, "dont_write_bytecode", True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, former)


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        (["no-such-run"], StorageError, "no-such-run: there is no such directory; name the state directory"),
        ([".", "--formats", "fp32,int4"], ConfigurationError, "'int4' is none of fp32,fp16,dynamic,int8"),
        ([".", "--formats", ","], ConfigurationError, "'nothing' is none of"),
        (["RUN", "--data", "no.npz"], DataError, r"no\.npz: there is no such file"),
        (["RUN", "--out", "RUN/task.fedtask/x"], StorageError, "a file is where this directory should be"),
    ],
)
def test_what_the_user_got_wrong_is_told(run: Run, arguments: list[str], error: type[FedpruneError], told: str) -> None:
    with pytest.raises(error, match=told):
        CliRunner().invoke(
            export, [argument.replace("RUN", str(run.path)) for argument in arguments], catch_exceptions=False
        )


def test_without_tensorflow_the_error_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ExportError, match=r"export needs tensorflow; in fedprune's clone: pip install '\.\[export\]'"):
        CliRunner().invoke(export, [str(run.path)], catch_exceptions=False)
