"""`fedprune demo` through its command line: every part a real process, on real data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from benchmarks.children import Children
from benchmarks.demo.command import _export_cells
from benchmarks.demo.federation import benchmark_exports
from benchmarks.demo.result import export_results
from export.report import FILE, Exported, Format, Sparsity
from fedprune.data.source import fashion_mnist_or_digits
from fedprune.errors import ConfigurationError, DataError
from fedprune.runtime.tflite import default_runtime
from tests.brokers import MISSING, Mosquitto
from tests.patience import PATIENCE_S
from tests.processes import run, until

_COMMAND = (sys.executable, "-m", "fedprune.command", "demo")


class _Ended(NamedTuple):
    """A demo that has ended: its directory, what it printed, and what it told meanwhile."""

    out: Path
    printed: str
    told: str


def _demo(out: Path, *options: str) -> _Ended:
    command = (*_COMMAND, "--out", str(out), *options)
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return _Ended(out, done.stdout, done.stderr)


def _refusal(code: int, out: Path, *options: str) -> str:
    """What a demo says that ends with this code before it begins."""
    ended_with, said = run("demo", "--out", out, *options)
    assert ended_with == code, said
    return said


def _result(out: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> _Ended:
    """A small demo, whose directory's name is not text."""
    out = tmp_path_factory.mktemp("demo") / os.fsdecode(b"sm\xe5ll")
    options = ("--agents", "2", "--rounds", "3", "--examples-per-agent", "128")
    return _demo(out, *options, "--sparsity", "0.9", "--units", "0.5", "--broker", "embedded")


def test_result_json_holds_what_it_promises(small: _Ended) -> None:
    result = _result(small.out)
    assert [entry["round"] for entry in result["rounds"]] == [1, 2, 3]
    for entry in result["rounds"]:
        assert entry["agents"] == 2
        assert 0 < entry["train_seconds"] < entry["seconds"]
        assert entry["bytes_up"] > 20_000
        assert sum(entry["bytes_up_by_kind"].values()) == entry["bytes_up"]
        assert sum(entry["bytes_down_by_kind"].values()) == entry["bytes_down"]
    first, *others = (entry["bytes_down_by_kind"] for entry in result["rounds"])
    assert set(first) == {"task", "control"}, "the first model follows from the task"
    assert all(kinds["model"] > 20_000 for kinds in others)
    assert result["model"]["parameters"] == 108_618
    assert result["model"]["accuracy"] == result["rounds"][-1]["accuracy"]
    memory = result["peak_memory_mb"]
    assert memory["agent_idle"] < 60
    assert memory["aggregator"] < 150
    assert memory["agent"] > memory["agent_idle"]
    assert [export["format"] for export in result["exports"]] == ["fp32", "fp16", "dynamic", "int8"]
    for export in result["exports"]:
        assert (small.out / export["path"]).stat().st_size == export["bytes"] > export["bytes_compressed"]
        assert export["p50_ms"] > 0


def test_a_demos_directory_may_have_any_name(small: _Ended) -> None:
    assert _result(small.out)["settings"]["out"].endswith(r"sm\xe5ll")


def test_uplink_bytes_are_those_of_the_updates_and_little_more(small: _Ended) -> None:
    """The last round's updates: int8 at kept positions; 2 % on top for messages."""
    result = _result(small.out)
    kept = result["model"]["prunable"] * (1 - result["rounds"][1]["sparsity"])
    values = 2 * (kept + result["model"]["parameters"] - result["model"]["prunable"])
    assert values < result["rounds"][2]["bytes_up"] < values * 1.02 + 2000


def test_the_exported_kernels_have_half_the_units_and_are_sparse(small: _Ended) -> None:
    sizes = {3 * 3 * 8, 3 * 3 * 8 * 16, 5 * 5 * 16 * 64, 64 * 10}
    parameters = sum(sizes) + 8 + 16 + 64 + 10
    interpreter: Any = default_runtime().interpreter(small.out / "export" / "fp32.tflite")
    kernels = [
        interpreter.get_tensor(detail["index"])
        for detail in interpreter.get_tensor_details()
        if len(detail["shape"]) in (2, 4) and np.prod(detail["shape"]) in sizes
    ]
    constants = {array.size: array for array in kernels if np.count_nonzero(array)}
    assert set(constants) == sizes
    assert _result(small.out)["model"]["exported_parameters"] == parameters
    kept = sum(np.count_nonzero(array) for array in constants.values())
    assert kept / _result(small.out)["model"]["prunable"] == pytest.approx(0.1, abs=0.005)


def test_a_person_sees_tables_and_a_picture(small: _Ended) -> None:
    assert small.printed.count("accuracy") == 2, "no heading is cut short, however narrow the terminal"
    assert "int8" in small.printed
    assert "MB with TensorFlow; --trainer litert trains as devices do" in small.printed
    tables = [line for line in small.printed.splitlines() if not line.startswith("peak memory")]
    assert max(map(len, tables)) < 80
    assert (small.out / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_terminal_each_part_and_each_round_is_a_line(small: _Ended) -> None:
    lines = small.told.splitlines()
    assert lines[:3] == ["Sharing out the data", "Building the task bundle", "Training with 2 agents"]
    assert [line.partition(":")[0] for line in lines[3:6]] == ["round 1/3", "round 2/3", "round 3/3"]
    assert lines[6:8] == ["Exporting and verifying", "Benchmarking"]


def test_bad_requests_are_one_line_and_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "name another --out" in _refusal(ConfigurationError.exit_code, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    said = _refusal(ConfigurationError.exit_code, tmp_path / "mine" / "thesis.txt")
    assert "thesis.txt: a file is where this directory should be; name another --out" in said
    np.savez(tmp_path / "no-labels.npz", x=np.zeros((9, 8, 8)))
    said = _refusal(DataError.exit_code, tmp_path / "out", "--data", str(tmp_path / "no-labels.npz"))
    assert "no-labels.npz" in said
    assert "Traceback" not in said
    np.savez(tmp_path / "no-classes.npz", x=np.zeros((9, 12, 12)), y=np.zeros(9))
    options = ("--data", str(tmp_path / "no-classes.npz"), "--agents", "1", "--examples-per-agent", "4")
    said = _refusal(ConfigurationError.exit_code, tmp_path / "out", *options, "--partition", "iid")
    assert "the demo's model is a classifier, y does not hold class numbers" in said


def test_a_broker_address_that_is_none_is_refused_before_any_work(tmp_path: Path) -> None:
    for address in ("http://gateway", "mqtt://", "gateway:1883"):
        said = _refusal(ConfigurationError.exit_code, tmp_path / "out", "--broker", address)
        assert "mqtt://HOST[:PORT]" in said
        assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_demos_on_one_broker_are_two_federations(tmp_path: Path, mosquitto: Mosquitto) -> None:
    options = ("--agents", "1", "--rounds", "2", "--examples-per-agent", "64", "--broker", mosquitto.url)
    command = (*_COMMAND, *options, "--seed")
    demos = [subprocess.Popen((*command, str(seed), "--out", str(tmp_path / str(seed)))) for seed in (1, 2)]
    assert [demo.wait(PATIENCE_S) for demo in demos] == [0, 0]
    names = {_result(tmp_path / str(seed))["settings"]["federation"] for seed in (1, 2)}
    assert len(names) == 2
    for seed in (1, 2):
        assert [entry["agents"] for entry in _result(tmp_path / str(seed))["rounds"]] == [1, 1]


def test_a_model_that_cannot_be_benchmarked_has_its_row(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "int8.tflite").write_bytes(b"TFL3, but no more")
    row = Exported("int8.tflite", Format.INT8, 17, 17, "", Sparsity(None, {}), None, {}, None, False, None, False, ())
    (tmp_path / "export" / FILE).write_bytes(msgspec.json.encode({"exports": [row]}))
    with Children(tmp_path) as children:
        benchmark_exports(tmp_path, children)
    (result,) = export_results(tmp_path, tmp_path / "export", tmp_path / "benchmark.json")
    assert (result.accuracy, result.p50_ms) == (None, None)
    assert _export_cells(result)[-2:] == ("-", "failed")


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
@pytest.mark.parametrize(
    ("victim", "file"),
    [("agent-0", "agents/agent-0.toml"), pytest.param("broker", "mosquitto.conf", marks=pytest.mark.slow)],
)
def test_a_part_that_dies_ends_the_demo(tmp_path: Path, victim: str, file: str) -> None:
    """In the middle of a federation that could go on for an hour."""
    out = tmp_path / "out"
    with _long_demo(out, "--agents", "2", "--broker", "mosquitto") as demo:
        (pid,) = _processes_of(out / file)
        os.kill(int(pid), signal.SIGKILL)
        _, errors = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 1
    assert f"fedprune: {victim}: ended by signal 9 (Killed)" in errors
    assert "Traceback" not in errors
    assert not _processes_of(out)


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_who_ends_a_demo_ends_every_process_of_it(tmp_path: Path, how: signal.Signals, code: int) -> None:
    out = tmp_path / "out"
    with _long_demo(out, "--agents", "1") as demo:
        demo.send_signal(how)
        _, errors = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == code
    assert "Traceback" not in errors
    assert not _processes_of(out)


@contextmanager
def _long_demo(out: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A demo that trains, and would for long; it is ended at the latest with the context."""
    lasting = ("--rounds", "500", "--examples-per-agent", "64", "--trainer", "litert")
    command = (*_COMMAND, "--out", str(out), *lasting, *options)
    demo = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: "training" in _text(out / "logs" / "agent-0.log"), "the agent trains")
        yield demo
    finally:
        if demo.poll() is None:
            demo.send_signal(signal.SIGINT)
            demo.communicate(timeout=PATIENCE_S)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _processes_of(path: Path) -> list[str]:
    """The processes that have `path` on their command line."""
    numbers = [name for name in os.listdir("/proc") if name.isdecimal()]
    return [number for number in numbers if str(path) in _text(Path("/proc", number, "cmdline"))]


@pytest.mark.slow
def test_the_default_demo_keeps_its_promises(tmp_path: Path) -> None:
    _demo(tmp_path / "pruned")
    _demo(tmp_path / "dense", "--sparsity", "0", "--codec", "mask | fp32")
    pruned, dense = _result(tmp_path / "pruned"), _result(tmp_path / "dense")
    assert pruned["model"]["accuracy"] >= 0.75
    assert pruned["model"]["sparsity"] == pytest.approx(0.8, abs=0.005)
    assert 8 * sum(r["bytes_up"] for r in pruned["rounds"]) <= sum(r["bytes_up"] for r in dense["rounds"])
    accuracies = {export["format"]: export["accuracy"] for export in pruned["exports"]}
    assert accuracies["int8"] == pytest.approx(accuracies["fp32"], abs=0.01)


@pytest.mark.slow
def test_agents_with_their_own_masks_learn_too(tmp_path: Path) -> None:
    _demo(tmp_path / "own", "--mask", "own", "--codec", "mask | fp16", "--seed", "11", "--agents", "3")
    result = _result(tmp_path / "own")
    assert result["model"]["accuracy"] >= 0.7
    assert result["model"]["sparsity"] == pytest.approx(0.8, abs=0.005)


@pytest.mark.slow
def test_shuffled_labels_give_chance(tmp_path: Path) -> None:
    train = fashion_mnist_or_digits().train.take(np.arange(8000))
    labels = np.random.default_rng(0).permutation(train.y)
    np.savez(tmp_path / "shuffled.npz", x=train.x, y=labels)
    _demo(tmp_path / "out", "--data", str(tmp_path / "shuffled.npz"), "--rounds", "6")
    assert _result(tmp_path / "out")["model"]["accuracy"] == pytest.approx(0.1, abs=0.04)


@pytest.mark.slow
def test_unseen_images_of_three_classes(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    y = random.integers(0, 3, 900)
    x = random.normal(0.3, 0.2, (900, 20, 20)).astype(np.float32)
    for image, label in zip(x, y, strict=True):
        image[3 + 5 * label : 8 + 5 * label, 5:12] += 0.5
    np.savez(tmp_path / "three.npz", x=np.clip(x, 0, 1), y=y)
    options = ("--agents", "3", "--examples-per-agent", "200", "--rounds", "8", "--seed", "5")
    _demo(tmp_path / "out", "--data", str(tmp_path / "three.npz"), *options)
    assert _result(tmp_path / "out")["model"]["accuracy"] > 0.9
