"""Exports whose converter crashes, hangs, refuses or is interrupted: a real one, in its real process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from export import export_command, exporting
from export.converter import ConverterProcess, Job
from export.export_command import FormatsFailed, export
from export.exporting import export_model, export_run
from export.report import Format, Report
from fedprune.data import Dataset, save_npz
from fedprune.errors import ExportError, TaskError
from fedprune.model.randomness import Keyed
from fedprune.network.layers import Activation, Convolution, Dense, Function, GlobalPooling, Statistic
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.system.disk import Directory
from fedprune.task.bundle import Pruning, Task, load_bundle, write_bundle
from fedprune.task.checkpoints import Checkpoint, load_latest, save_checkpoint
from fedprune.task.outputs import Output
from fedprune.task.run_directory import CHECKPOINTS
from fedprune.task.training import Training
from tests.described import chain_of, table_of, weights_of
from tests.patience import PATIENCE_S
from tests.processes import Child

CLASSES = 3
NETWORK = chain_of(
    (8, 8, 1),
    Convolution(name="edges", size=(3, 3), strides=(1, 1), filters=4, kernel="edges/kernel", bias="edges/bias"),
    Activation(name="relu", function=Function.RELU),
    GlobalPooling(name="mean", statistic=Statistic.MEAN),
    Dense(name="head", units=CLASSES, kernel="head/kernel", bias="head/bias"),
)
TABLE = table_of(NETWORK)
X = Keyed(0, "x").uniform(200 * 64, 0.0, 1.0).reshape(200, 8, 8, 1)
DATA = Dataset(X, np.arange(200) % CLASSES)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as an aggregator leaves it."""
    path = tmp_path_factory.mktemp("run")
    task = Task(
        name="small",
        input_shapes=((8, 8, 1),),
        outputs=(Output((CLASSES,), from_logits=True),),
        tensors=tuple(TABLE),
        training=Training(steps_per_round=4),
        pruning=Pruning(ConstantSparsity(target_sparsity=0.0, begin_step=0, frequency=1)),
        members={},
    )
    weights = weights_of(TABLE, -1.0, 1.0)
    (path / exporting.TASK).write_bytes(write_bundle(task, network=NETWORK, weights=weights))
    save_checkpoint(Directory(path / CHECKPOINTS), Checkpoint("a-run", 3, weights, weights, {}))
    save_npz(path / exporting.HELD_OUT, DATA)
    return path


def converter_of(parent: int) -> int:
    """The process id of the converter that `parent` has started."""
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"export.converter_child" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    raise AssertionError("no converter runs")


def sending(number: signal.Signals, at: str) -> Callable[[str], None]:
    """A signal for the converter as a step begins."""

    def on_step(step: str) -> None:
        if step == at:
            os.kill(converter_of(os.getpid()), number)

    return on_step


def test_a_format_whose_conversion_crashes_is_told_and_the_others_are_made(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fp16.tflite").write_bytes(b"of an earlier export")

    @contextmanager
    def crashing(_: int) -> Iterator[Callable[[str], None]]:
        yield sending(signal.SIGSEGV, "Converting to fp16")

    monkeypatch.setattr(export_command, "_progress", crashing)
    shown = CliRunner().invoke(export, [str(run), "--out", str(tmp_path)])

    crashed = "converting to fp16 crashed (Segmentation fault); leave this format out with --formats"
    report = msgspec.json.decode((tmp_path / "exports.json").read_bytes(), type=Report)
    (failure,) = report.failures
    assert failure.format is Format.FP16
    assert failure.error.startswith(crashed)
    assert [row.format for row in report.exports] == [Format.FP32, Format.DYNAMIC, Format.INT8]
    assert all(tried.ok for row in report.exports for tried in row.runs_on)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        ["exports.json", *(row.path for row in report.exports)]
    )
    assert isinstance(shown.exception, FormatsFailed)
    assert shown.exception.exit_code == 1
    assert str(shown.exception).startswith(f"some formats could not be made, the others are there: fp16: {crashed}")
    assert f"fp16.tflite: {crashed}" in " ".join(shown.output.split())
    assert "fp32.tflite, dynamic.tflite, int8.tflite and exports.json are in" in " ".join(shown.output.split())


def test_a_crash_of_what_runs_the_file_costs_that_format(run: Path, tmp_path: Path) -> None:
    on_step = sending(signal.SIGABRT, "Verifying dynamic")
    report = export_run(run, None, tmp_path, [Format.DYNAMIC], on_step)

    assert (report.exports, len(report.failures)) == ((), 1)
    assert "running the file that was made crashed (Aborted)" in report.failures[0].error
    assert [file.name for file in tmp_path.iterdir()] == ["exports.json"], "never an empty directory and no word"


def test_a_conversion_that_hangs_is_ended(run: Path, tmp_path: Path) -> None:
    bundle, checkpoint = load_bundle(run / exporting.TASK), load_latest(run)
    stopped: list[int] = []

    def on_step(step: str) -> None:
        if step == "Converting to int8":
            stopped.append(os.pidfd_open(converter_of(os.getpid())))
            signal.pidfd_send_signal(stopped[0], signal.SIGSTOP)

    report = export_model(
        bundle,
        checkpoint,
        DATA,
        tmp_path,
        [Format.INT8],
        on_step,
        open_converter=lambda job: ConverterProcess(job, 0.5),
    )

    assert "converting to int8 took longer than 0.5 s and was ended" in report.failures[0].error
    assert has_ended(stopped[0])


def has_ended(process: int) -> bool:
    """Wait for the end of a process, of which `process` is a descriptor."""
    ended, _, _ = select.select([process], [], [], PATIENCE_S)
    os.close(process)
    return bool(ended)


def test_a_process_that_ends_before_the_model_is_loaded_ends_the_export_with_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(ExportError, match=r"loading TensorFlow and building the model crashed \(exit code 1\); does"):
        export_run(run, None, tmp_path, [Format.FP32], lambda _: None)
    assert not list(tmp_path.iterdir())


def test_what_the_process_refuses_is_refused_here() -> None:
    weights = weights_of(TABLE)
    with (
        ConverterProcess(Job(NETWORK, tuple(TABLE)[:-1], weights, [X], [X])) as converter,
        pytest.raises(TaskError, match="tensor 'head/bias' is not there in the table"),
    ):
        converter.evaluate()


_PROGRAM = """
import sys
from contextlib import contextmanager
from export import export_command
from fedprune.command import main

@contextmanager
def told(_):
    yield lambda step: print(step, file=sys.stderr, flush=True)

export_command._progress = told
main(sys.argv[1:])
"""
"""The command, which says its steps though no terminal is there."""


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["Ctrl-C", "SIGTERM", "SIGKILL"],
)
def test_whatever_ends_an_export_ends_its_converter_at_once(
    run: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Also one that would convert for ever: it is stopped."""
    with Child("export", run, "--out", tmp_path, by=[sys.executable, "-c", _PROGRAM]) as command:
        command.says("Converting to fp32")
        converter = os.pidfd_open(converter_of(command.pid))
        signal.pidfd_send_signal(converter, signal.SIGSTOP)
        command.interrupt(number)
        assert has_ended(converter)
        assert command.ends() == code
    assert ("fedprune: interrupted" in command.stderr) == (number == signal.SIGINT)
    assert not list(tmp_path.iterdir())


def test_a_dynamic_file_that_is_no_smaller_than_fp32_is_told(run: Path, tmp_path: Path) -> None:
    """TFLite quantises large tensors only. And the process that exports loads no TensorFlow of its own."""
    program = (
        "import sys; from export.export_command import export; export(standalone_mode=False);"
        "sys.exit('tensorflow' in sys.modules)"
    )
    arguments = [str(run), "--formats", "fp32,dynamic", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    report = msgspec.json.decode((tmp_path / "exports.json").read_bytes(), type=Report)
    fp32, dynamic = report.exports
    assert dynamic.bytes >= fp32.bytes
    assert (fp32.no_smaller, dynamic.no_smaller) == (False, True)
    told = f"dynamic.tflite is no smaller than fp32.tflite ({dynamic.bytes:,} bytes, not {fp32.bytes:,})"
    assert report.warnings[-1].startswith(told)
    assert f"Warning: {told}" in " ".join(done.stdout.split())
    assert f"{dynamic.bytes / 1000:,.1f} !" in done.stdout
