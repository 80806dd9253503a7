"""`fedprune benchmark` with real models in real worker processes."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from benchmarks.latency.command import benchmark
from benchmarks.latency.measure import Settings, measure, turns
from benchmarks.latency.process import WorkerProcess
from benchmarks.latency.results import Failed, Measured
from fedprune.errors import ExportError, StorageError
from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from tests.fixtures_tflite import Alter, TinyModels

pytest_plugins = ["tests.fixtures_tflite"]

_FEW = Settings(num_runs=3, warmup_runs=1)


def _benchmark(*arguments: str | Path) -> Result:
    return CliRunner().invoke(benchmark, [str(argument) for argument in arguments])


def _workers_of(model: Path) -> list[int]:
    """Process ids of the workers that run this file."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(model).encode() in arguments:
                found.append(int(entry.name))
    return found


def test_the_report_tells_all_and_one_bad_file_stops_nothing(tiny_models: TinyModels, tmp_path: Path) -> None:
    broken, target = tmp_path / "broken.tflite", tmp_path / "report.json"
    broken.write_bytes(tiny_models.fp32.read_bytes()[:2000])
    options = ("--num_threads", "2", "--num_runs", "12", "--warmup_runs", "0", "--json", target)
    result = _benchmark(tiny_models.fp32, broken, tiny_models.int8, *options)

    assert isinstance(result.exception, ExportError)
    assert str(result.exception) == f"{broken}: the file is truncated or damaged: copy or export it again"
    assert re.findall(r"^(\S+\.tflite) ", result.output, re.MULTILINE) == [
        "fp32.tflite",
        "broken.tflite",
        "int8.tflite",
    ]
    report = json.loads(target.read_text())
    assert (report["num_threads"], report["num_runs"], report["warmup_runs"]) == ([2], 12, 0)
    assert report["runtime"].split()[0] in ("ai-edge-litert", "tflite-runtime")
    assert report["reference"] == str(tiny_models.fp32)
    assert report["machine"]["cores"] >= 1
    first, failed, last = report["models"]
    assert failed == {"outcome": "failed", "path": str(broken), "num_threads": 2, "error": str(result.exception)}
    for row, path in ((first, tiny_models.fp32), (last, tiny_models.int8)):
        latency = row["latency_ms"]
        assert (row["path"], row["bytes"]) == (str(path), path.stat().st_size)
        assert 0 < latency["min"] <= latency["p50"] <= latency["p90"] <= latency["p99"]
        assert row["init_ms"] > 0
        assert 10 < row["peak_memory_mb"] < 200
        assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert first["ratio"] is None
    assert 0 < last["ratio"]["low"] <= last["ratio"]["median"] <= last["ratio"]["high"]
    conditions = report["conditions"]
    assert conditions["elapsed_s"] > 0
    assert conditions["before"]["available_memory_mb"] > 0
    assert conditions["others_cores"] is not None


def _row(result: Result) -> dict[str, Any]:
    (row,) = json.loads(result.stdout)["models"]
    assert isinstance(row, dict)
    return row


def test_a_model_with_open_sizes_is_refused_with_what_to_give(open_size: Path) -> None:
    result = _benchmark(open_size, "--num_runs", "1")
    assert str(result.exception) == (
        f"{open_size}: the model leaves sizes of its input open: give --input_layer_shape ?,?,?,3:4 with a number for "
        "each ?"
    )


def test_open_sizes_are_measured_as_they_are_given(open_size: Path) -> None:
    few = ("--num_runs", "2", "--warmup_runs", "0", "--json", "-")
    small = _benchmark(open_size, *few, "--input_layer_shape", "1,8,8,3:4")
    large = _benchmark(open_size, *few, "--input_layer_shape", "2,224,200,3:4")

    assert _row(large)["input_shapes"] == [[2, 224, 200, 3], [4]]
    assert "Input: 2x224x200x3, 4" in large.stderr
    assert _row(large)["latency_ms"]["p50"] > _row(small)["latency_ms"]["p50"]


@pytest.mark.parametrize("shapes", ["1,8,8,3", "1,8,8,4:4", "1,8,8,3:5", "8,8,3:4", "1,8,8,3:4:1"])
def test_shapes_that_the_model_does_not_take_are_refused(open_size: Path, shapes: str) -> None:
    result = _benchmark(open_size, "--input_layer_shape", shapes)
    assert str(result.exception) == (
        f"{open_size}: the model takes --input_layer_shape ?,?,?,3:4, not {shapes}; ? is any number"
    )


@pytest.mark.parametrize("shapes", ["", "1,?,8,3:4", "image:1,8,8,3", "1,0,8,3:4", "1,-1,8,3:4", "1,99999,99999,3:4"])
def test_what_is_no_shape_is_clicks_usage_error(open_size: Path, shapes: str) -> None:
    result = _benchmark(open_size, "--input_layer_shape", shapes)
    assert result.exit_code == 2
    assert "--input_layer_shape" in result.stderr


def test_an_open_batch_is_one_and_what_was_measured_is_shown(tiny_models: TinyModels) -> None:
    result = _benchmark(tiny_models.open_batch, tiny_models.fp32, "--num_runs", "1", "--json", "-")
    assert [row["input_shapes"] for row in json.loads(result.stdout)["models"]] == [[[1, 8, 8, 1]]] * 2
    assert "Input: 1x8x8x1" in result.stderr
    batch = _benchmark(tiny_models.open_batch, "--num_runs", "1", "--input_layer_shape", "7,8,8,1", "--json", "-")
    assert _row(batch)["input_shapes"] == [[7, 8, 8, 1]]


_LOCALES = {
    "UTF-8": {"LC_ALL": "C.UTF-8"},
    "C": {"LC_ALL": "C"},
    "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("locale", _LOCALES)
@pytest.mark.parametrize("name", ["größe.tflite".encode(), b"caf\xe9.tflite"], ids=["UTF-8", "Latin-1"])
def test_a_file_may_have_any_name_in_any_locale(
    tiny_models: TinyModels, tmp_path: Path, name: bytes, locale: str
) -> None:
    model, report = os.fsencode(tmp_path) + b"/" + name, tmp_path / "report.json"
    Path(os.fsdecode(model)).write_bytes(tiny_models.fp32.read_bytes())
    program = "from fedprune.command import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "benchmark", model, model + b"?", "--num_runs", "1", "--json", str(report)],
        capture_output=True,
        env=os.environ | _LOCALES[locale],
        check=False,
    )
    assert done.returncode == 10, done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stderr
    assert b".tflite?: No such file" in done.stderr
    measured, failed = json.loads(report.read_text(encoding="utf-8"))["models"]
    assert measured["path"] == str(tmp_path / name.decode(errors="backslashreplace"))
    assert failed["path"] == measured["path"] + "?"


def test_json_on_standard_output_is_alone_there(tiny_models: TinyModels) -> None:
    result = _benchmark(tiny_models.fp32, "--num_runs", "1", "--json", "-")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["models"][0]["path"] == str(tiny_models.fp32)
    assert "fp32.tflite" in result.stderr


def test_a_report_that_cannot_be_written_is_one_clear_line(tiny_models: TinyModels) -> None:
    result = _benchmark(tiny_models.fp32, "--num_runs", "1", "--json", "/dev/full")
    assert isinstance(result.exception, StorageError)
    assert "/dev/full" in str(result.exception)


def test_several_failures_are_all_told(tmp_path: Path) -> None:
    result = _benchmark(tmp_path / "a.tflite", tmp_path)
    assert isinstance(result.exception, ExportError)
    assert str(result.exception).startswith("2 of 2 models could not be benchmarked: ")
    assert "a.tflite: No such file" in str(result.exception)
    assert f"{tmp_path} is not a file" in str(result.exception)


@pytest.mark.parametrize(
    "option", ["--num_runs=0", "--num_threads=0", "--num_threads=1,,2", "--warmup_runs=-1", "--num_runs=many"]
)
def test_a_wrong_option_is_clicks_usage_error(tiny_models: TinyModels, option: str) -> None:
    result = _benchmark(tiny_models.fp32, option)
    assert result.exit_code == 2
    assert option.split("=")[0] in result.stderr


def test_random_damage_never_gets_past_the_row(tiny_models: TinyModels, tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    models = []
    for number in range(8):
        content = np.frombuffer(tiny_models.int8.read_bytes(), np.uint8).copy()
        places = random.integers(8, len(content), 1 << number)
        content[places] = random.integers(0, 256, len(places))
        models.append(tmp_path / f"{number}.tflite")
        models[-1].write_bytes(content.tobytes())
    rows = measure(models, _FEW).models
    assert [row.path for row in rows] == [str(model) for model in models]
    assert any(isinstance(row, Failed) for row in rows)
    assert all("\n" not in row.error for row in rows if isinstance(row, Failed))


def test_an_input_of_absurd_size_is_refused(altered: Alter) -> None:
    def absurd(model: Any) -> None:
        graph = model.subgraphs[0]
        tensor = graph.tensors[graph.inputs[0]]
        tensor.shape = [1, 1 << 15, 1 << 15, 1]

    (row,) = measure([altered(absurd)], _FEW).models
    assert isinstance(row, Failed)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGKILL, "ended with SIGKILL"),
        (signal.SIGABRT, "ended with SIGABRT"),
        (signal.SIGALRM, "gave no answer"),
    ],
)
def test_a_crashed_process_is_one_row_and_the_others_finish(
    tiny_models: TinyModels, number: signal.Signals, told: str
) -> None:
    models = [tiny_models.fp32, tiny_models.int8, tiny_models.open_batch]
    seen: list[Path] = []

    def kill_the_second_in_its_first_block(model: Path) -> None:
        seen.append(model)
        if model == tiny_models.int8 and seen.count(model) == 3:
            (pid,) = _workers_of(model)
            os.kill(pid, number)

    first, second, third = measure(models, _FEW, kill_the_second_in_its_first_block).models
    assert isinstance(first, Measured)
    assert isinstance(third, Measured)
    assert isinstance(second, Failed)
    assert told in second.error
    assert seen.count(tiny_models.int8) == 3
    assert seen.count(tiny_models.fp32) == turns(_FEW)


def test_a_model_that_loops_for_ever_ends_its_worker(endless_model: Path) -> None:
    program = (
        "from pathlib import Path; from benchmarks.latency import worker; worker.PATIENCE_SECONDS = 1;"
        f"worker.main(Path({str(endless_model)!r}), 1)"
    )
    worker = subprocess.run([sys.executable, "-c", program], input="1\n", capture_output=True, text=True, check=False)
    assert [json.loads(line)["type"] for line in worker.stdout.splitlines()] == ["Ready"]
    assert worker.returncode == -signal.SIGALRM


def test_ctrl_c_ends_the_command_with_130_and_its_workers(tiny_models: TinyModels) -> None:
    program = "from fedprune.command import main; main()"
    arguments = ["benchmark", str(tiny_models.fp32), "--num_runs", "1000000"]
    screen, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=terminal,
        stderr=terminal,
        env=os.environ | {"TERM": "xterm"},
    ) as process:
        os.close(terminal)
        seen = b""
        while b" 1%" not in seen:
            seen += os.read(screen, 4096)
        assert b"fp32.tflite" in seen
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(PATIENCE_S) == 130
        finally:
            process.kill()
    os.close(screen)
    assert _workers_of(tiny_models.fp32) == []


def test_an_interruption_between_turns_ends_all_workers(tiny_models: TinyModels) -> None:
    models = [tiny_models.fp32, tiny_models.int8]

    def interrupt_when_both_are_loaded(model: Path) -> None:
        if len(_workers_of(tiny_models.int8)) == 1 and model == tiny_models.fp32:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        measure(models, _FEW, interrupt_when_both_are_loaded)
    assert [_workers_of(model) for model in models] == [[], []]


def test_a_worker_times_as_often_as_it_is_asked(tiny_models: TinyModels) -> None:
    with WorkerProcess(tiny_models.fp32, 1) as worker:
        worker.load()
        blocks = [worker.time(runs) for runs in (0, 1, 7)]
    assert [len(block.latencies_ms) for block in blocks] == [0, 1, 7]
    assert blocks[0].peak_memory_mb <= blocks[-1].peak_memory_mb


def test_no_tensorflow_is_loaded() -> None:
    program = (
        "import sys, benchmarks.latency.command, benchmarks.latency.worker, fedprune.runtime.tflite;"
        "fedprune.runtime.tflite.default_runtime();"
        "sys.exit(any(name.split('.')[0] in ('tensorflow', 'tf_keras', 'keras') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
