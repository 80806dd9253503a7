"""Two benchmarks compared, and the history of them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from benchmarks.latency import history as histories
from benchmarks.latency.command import NotAsFast, benchmark
from benchmarks.latency.history import append_to_history, read_history
from benchmarks.latency.judgement import Disturbance, Flag
from benchmarks.latency.results import Report
from fedprune.errors import ExportError, StorageError
from tests.benchmarked import measured, report_of

_MEDIANS = (0.98, 1.0, 1.02, 1.0, 0.99, 1.01)
_BEFORE = report_of(measured("a.tflite"), measured("b.tflite"))


def _compare(folder: Path, first: Report, second: Report, *options: str) -> Result:
    paths = [folder / "A.json", folder / "B.json"]
    for path, report in zip(paths, (first, second), strict=True):
        path.write_bytes(msgspec.json.encode(report))
    return CliRunner().invoke(benchmark, ["compare", *map(str, paths), *options])


def test_equal_benchmarks_are_equal(tmp_path: Path) -> None:
    result = _compare(tmp_path, _BEFORE, _BEFORE)
    assert result.exit_code == 0
    assert [line.split()[:5] for line in result.output.splitlines()[2:]] == [
        ["a.tflite", "1", "1.00", "1.00", "1.00"],
        ["b.tflite", "1", "1.00", "1.00", "1.00"],
    ]


def test_a_model_that_became_slower_is_named_and_fails(tmp_path: Path) -> None:
    slower = measured("runs/b.tflite", medians_ms=tuple(1.3 * median for median in _MEDIANS))
    result = _compare(tmp_path, _BEFORE, report_of(measured("a.tflite"), slower), "--json", str(tmp_path / "C.json"))
    assert isinstance(result.exception, NotAsFast)
    assert str(result.exception) == "slower than before: b.tflite (1 threads)"
    same, worse = json.loads((tmp_path / "C.json").read_text())["pairs"]
    assert (same["is_slower"], worse["is_slower"]) == (False, True)
    assert 1.2 < worse["ratio"]["low"] <= worse["ratio"]["median"] <= worse["ratio"]["high"] < 1.4


def test_what_is_within_the_tolerance_or_the_noise_is_not_slower(tmp_path: Path) -> None:
    slower = measured("a.tflite", medians_ms=tuple(1.3 * median for median in _MEDIANS))
    assert _compare(tmp_path, report_of(measured("a.tflite")), report_of(slower), "--tolerance", "0.5").exit_code == 0
    noisy = measured("a.tflite", medians_ms=(0.7, 2.0, 1.3, 0.8, 1.7, 1.1))
    assert _compare(tmp_path, report_of(measured("a.tflite")), report_of(noisy)).exit_code == 0


def test_what_was_not_alike_is_told_and_fails(tmp_path: Path) -> None:
    other = msgspec.structs.replace(
        report_of(measured("a.tflite", sha256="1" * 64), measured("c.tflite")),
        machine=msgspec.structs.replace(_BEFORE.machine, cpu="Cortex-A76"),
        runtime="ai-edge-litert 2.4.0",
        flags=(Flag(Disturbance.HOT, "the processor reached 84 °C"),),
    )
    result = _compare(tmp_path, _BEFORE, other)
    assert isinstance(result.exception, NotAsFast)
    assert "like was not compared with like" in str(result.exception)
    for told in (
        "the machines differ: cpu Cortex-A72, Cortex-A76",
        "runtime differs: ai-edge-litert 2.3.0, ai-edge-litert 2.4.0",
        "the files a.tflite differ",
        "the second was disturbed: the processor reached 84 °C",
        "only one of them has b.tflite (1 threads)",
        "only one of them has c.tflite (1 threads)",
    ):
        assert f"Not like with like: {told}" in result.output


def test_benchmarks_without_a_common_model_cannot_be_compared(tmp_path: Path) -> None:
    result = _compare(tmp_path, _BEFORE, report_of(measured("z.tflite")))
    assert isinstance(result.exception, ExportError)
    assert "no model in common" in str(result.exception)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2", b"\xff\xfe"])
def test_what_is_no_report_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "A.json").write_bytes(content)
    result = CliRunner().invoke(benchmark, ["compare", str(tmp_path / "A.json"), str(tmp_path / "A.json")])
    assert isinstance(result.exception, StorageError)
    assert "is not what `fedprune benchmark` of this version wrote" in str(result.exception)


def test_a_history_grows_and_forgets_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "MOST_REPORTS", 3)
    path = tmp_path / "history.jsonl"
    for hour in range(5):
        append_to_history(path, msgspec.structs.replace(_BEFORE, time=_BEFORE.time.replace(hour=hour)))
    assert [report.time.hour for report in read_history(path)] == [2, 3, 4]
    assert len(path.read_bytes().splitlines()) == 3


def test_a_history_is_shown_and_drawn_with_what_was_disturbed(tmp_path: Path) -> None:
    path, picture = tmp_path / "history.jsonl", tmp_path / "history.png"
    append_to_history(path, _BEFORE)
    append_to_history(path, msgspec.structs.replace(_BEFORE, flags=(Flag(Disturbance.OTHERS, "hogs"),)))
    result = CliRunner().invoke(benchmark, ["history", str(path), "--picture", str(picture)])
    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines()[2:]]
    assert [line[2:] for line in lines] == [
        ["a.tflite", "1", "1.00"],
        ["b.tflite", "1", "1.00"],
        ["a.tflite", "1", "1.00", "others"],
        ["b.tflite", "1", "1.00", "others"],
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_file_of_something_else_is_not_taken_for_a_history(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    with pytest.raises(StorageError, match="is not what"):
        append_to_history(path, _BEFORE)
    assert path.read_text() == "my notes\n"
