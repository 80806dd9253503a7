"""`fedprune benchmark` where it has to be trusted: threads, disturbances, long runs, comparisons, sparse kernels."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from benchmarks.latency.command import benchmark
from benchmarks.latency.measure import Settings, measure
from benchmarks.latency.results import Failed, Measured
from fedprune.errors import StorageError

if TYPE_CHECKING:
    from tests.fixtures_tflite import PatternModels, TinyModels

pytest_plugins = ["tests.fixtures_tflite"]

_FEW = Settings(num_runs=3, warmup_runs=1)


def _benchmark(*arguments: str | Path) -> Result:
    return CliRunner().invoke(benchmark, [str(argument) for argument in arguments])


def test_threads_are_swept_and_each_number_has_its_row_and_ratios(tiny_models: TinyModels) -> None:
    few = ("--threads", "1,2", "--num_runs", "4", "--json", "-")
    rows = json.loads(_benchmark(tiny_models.fp32, tiny_models.int8, *few).stdout)["models"]
    assert [(Path(row["path"]).name, row["num_threads"]) for row in rows] == [
        ("fp32.tflite", 1),
        ("fp32.tflite", 2),
        ("int8.tflite", 1),
        ("int8.tflite", 2),
    ]
    assert [row["ratio"] is not None for row in rows] == [False, False, True, True]
    assert [row["scaling"] is not None for row in rows] == [False, True, False, True]


def test_two_hogs_beside_a_benchmark_are_flagged(tiny_models: TinyModels) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            hog = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(hog.kill)
        result = _benchmark(tiny_models.fp32, "--num_runs", "50", "--json", "-")
    report = json.loads(result.stdout)
    assert "others" in [flag["disturbance"] for flag in report["flags"]]
    assert report["conditions"]["others_cores"] > 0.25
    assert "Not to be trusted (others)" in result.stderr


def test_a_benchmark_that_was_ended_goes_on_where_it_was(tiny_models: TinyModels, tmp_path: Path) -> None:
    models, journal = [tiny_models.fp32, tiny_models.int8], tmp_path / "journal.jsonl"
    settings = Settings(num_runs=30, warmup_runs=1)
    seen: list[Path] = []

    def end_it_halfway(model: Path) -> None:
        seen.append(model)
        if len(seen) == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(models, settings, end_it_halfway, journal)
    with journal.open("ab") as file:
        file.write(b'{"type":"Timed","row":0,"num')  # as a kill in the midst of a write leaves it

    again: list[Path] = []
    report = measure(models, settings, again.append, journal, resume=True)
    assert len(again) == 2 * (2 + 20 - 10)
    assert [len(row.medians_ms) for row in report.measured] == [20, 20]
    lines = [json.loads(line) for line in journal.read_bytes().splitlines()]
    assert {(line["row"], line["number"]) for line in lines if line["type"] == "Timed"} == {
        (row, number) for row in range(2) for number in range(20)
    }


def test_a_journal_of_another_benchmark_is_not_gone_on_with(tiny_models: TinyModels, tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    few = ("--warmup_runs", "0", "--journal", journal)
    assert _benchmark(tiny_models.fp32, "--num_runs", "2", *few).exit_code == 0
    for arguments, told in (
        (("--num_runs", "2"), "go on with --resume"),
        (("--num_runs", "3", "--resume"), "is of another benchmark (num_runs differs)"),
    ):
        result = _benchmark(tiny_models.fp32, *arguments, *few)
        assert isinstance(result.exception, StorageError)
        assert told in str(result.exception)
    (tmp_path / "notes").write_text("my notes\n")
    result = _benchmark(tiny_models.fp32, "--resume", "--journal", tmp_path / "notes")
    assert "is no journal of a benchmark" in str(result.exception)
    assert (tmp_path / "notes").read_text() == "my notes\n"


def test_a_model_that_failed_is_not_tried_again_when_the_benchmark_goes_on(
    tiny_models: TinyModels, tmp_path: Path
) -> None:
    models = [tiny_models.fp32, tmp_path / "gone.tflite"]
    measure(models, _FEW, journal=tmp_path / "journal.jsonl")
    turns_of: list[Path] = []
    first, second = measure(models, _FEW, turns_of.append, tmp_path / "journal.jsonl", resume=True).models
    assert set(turns_of) == {tiny_models.fp32}
    assert isinstance(first, Measured)
    assert isinstance(second, Failed)


def test_reports_of_two_benchmarks_are_compared_and_kept_in_a_history(tiny_models: TinyModels, tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    for name in ("A.json", "B.json"):
        done = _benchmark(tiny_models.fp32, "--num_runs", "5", "--json", tmp_path / name, "--history", history)
        assert done.exit_code == 0
    compared = _benchmark("compare", tmp_path / "A.json", tmp_path / "B.json", "--tolerance", "10")
    assert "fp32.tflite" in compared.output
    shown = _benchmark("history", history)
    assert [line.split()[2] for line in shown.output.splitlines()[2:]] == ["fp32.tflite", "fp32.tflite"]


def test_a_model_of_the_pattern_is_told_what_keeps_it_from_sparse_kernels(pattern_models: PatternModels) -> None:
    report = measure([pattern_models.sparse, pattern_models.dense, pattern_models.unpadded], Settings(num_runs=1))
    sparse, dense, unpadded = (row.sparse_kernels for row in report.measured)
    assert sparse is not None
    assert sparse.changes == ()
    assert sparse.qualifies
    assert dense is not None
    assert dense.changes == ("export it in sparse encoding, as fp32-sparse",)
    assert unpadded is not None
    assert any("ZeroPadding2D" in change for change in unpadded.changes)
