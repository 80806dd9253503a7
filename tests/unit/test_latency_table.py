"""The report as a person sees it."""

from __future__ import annotations

import click
import msgspec
import pytest

from benchmarks.latency.judgement import Disturbance, Flag
from benchmarks.latency.results import Failed, Latency, Ratio, Report
from benchmarks.latency.sparse_kernels import SparseKernels
from benchmarks.latency.table import render
from benchmarks.latency.this_machine import Machine
from tests.benchmarked import measured, quiet, report_of

_MACHINE = Machine("Cortex-A72", 4, "aarch64", "Raspberry Pi 4", "Debian 12", "3.11.2", 64)
_LATENCY = Latency(min=12.25, p50=13.5, p90=14.0, p99=15.0, mean=13.6, std=0.125)
_FIRST = measured("runs/a/fp32.tflite", bytes=436_516, latency_ms=_LATENCY, peak_memory_mb=50.25)
_SECOND = measured(
    "runs/a/int8.tflite", bytes=114_448, latency_ms=_LATENCY, peak_memory_mb=49.5, ratio=Ratio(0.51, 0.50, 0.54)
)
_REPORT = msgspec.structs.replace(report_of(_FIRST, _SECOND), machine=_MACHINE, num_threads=(4,))


def _rendered(report: Report) -> str:
    """As it is where no terminal shows colours."""
    return click.unstyle(render(report))


def test_everything_measured_is_shown_even_on_80_columns() -> None:
    assert max(map(len, _rendered(_REPORT).splitlines()[:-1])) <= 80  # but for the machine's description
    lines = [line.split() for line in _rendered(_REPORT).splitlines()]
    times = ["1.50", "12.2", "13.5", "14.0", "15.0", "13.6", "0.125"]
    assert ["fp32.tflite", "437", *times, "50.2"] in lines
    assert ["int8.tflite", "114", *times, "49.5", "0.51", "±0.02"] in lines
    assert "100 runs, 4 threads, ai-edge-litert 2.3.0" in _rendered(_REPORT)
    assert "Raspberry Pi 4, Cortex-A72, 4 cores" in _rendered(_REPORT)


def test_inputs_shapes_are_shown_once_if_all_models_have_them() -> None:
    assert "Input: 1x28x28x1" in _rendered(_REPORT).splitlines()


def test_inputs_shapes_are_shown_for_each_model_if_they_differ() -> None:
    other = msgspec.structs.replace(_SECOND, input_shapes=((1, 28, 28, 1), (), (3,)))
    lines = _rendered(msgspec.structs.replace(_REPORT, models=(_FIRST, other))).splitlines()
    assert "Input of fp32.tflite: 1x28x28x1" in lines
    assert "Input of int8.tflite: 1x28x28x1, scalar, 3" in lines


def test_models_keep_their_order_and_a_failed_one_its_row() -> None:
    report = msgspec.structs.replace(_REPORT, models=(Failed("x.tflite", 1, "why"), _SECOND, _FIRST))
    text = _rendered(report)
    assert text.index("x.tflite") < text.index("int8.tflite") < text.index("fp32.tflite")
    assert ["x.tflite", "failed"] in [line.split() for line in text.splitlines()]


def test_files_of_the_same_name_are_told_apart() -> None:
    report = msgspec.structs.replace(_REPORT, models=(_FIRST, msgspec.structs.replace(_SECOND, path="b/fp32.tflite")))
    assert "runs/a/fp32.tflite" in _rendered(report)


def test_one_model_is_compared_with_nothing() -> None:
    assert "vs first" in _rendered(_REPORT)
    assert "vs first" not in _rendered(msgspec.structs.replace(_REPORT, models=(_FIRST,)))


def test_columns_are_aligned_whatever_the_names_length() -> None:
    longer = msgspec.structs.replace(_SECOND, path="a-model-with-a-longer-name.tflite")
    lines = _rendered(msgspec.structs.replace(_REPORT, models=(_FIRST, longer))).splitlines()
    heading, first, second = (next(line for line in lines if word in line) for word in ("p50", "fp32", "longer"))
    assert heading.index("p50") + 3 == first.index("13.5") + 4 == second.index("13.5") + 4


def test_a_file_name_does_not_command_the_terminal() -> None:
    report = msgspec.structs.replace(_REPORT, models=(msgspec.structs.replace(_FIRST, path="\x1b[2J.tflite"),))
    text = render(report)
    assert "\x1b[2J" not in text
    assert "?[2J.tflite" in text


def test_disturbances_are_told_only_where_there_are_any() -> None:
    flag = Flag(Disturbance.OTHERS, "other processes kept 2.0 cores busy: end them")
    before = msgspec.structs.replace(quiet().before, governor="ondemand")
    conditions = msgspec.structs.replace(quiet(), before=before)
    text = _rendered(msgspec.structs.replace(_REPORT, flags=(flag,), conditions=conditions))
    assert "Not to be trusted (others): other processes kept 2.0 cores busy: end them." in text.splitlines()
    assert "governor is ondemand" in text
    assert "governor" not in _rendered(_REPORT)
    assert "trusted" not in _rendered(_REPORT)


def test_several_numbers_of_threads_have_rows_and_ratios_of_their_own() -> None:
    on_two = msgspec.structs.replace(_FIRST, num_threads=2, scaling=Ratio(0.6, 0.55, 0.65))
    text = _rendered(msgspec.structs.replace(_REPORT, num_threads=(1, 2), models=(_FIRST, on_two)))
    assert "vs 1 thr." in text
    assert next(line for line in text.splitlines() if "0.60 ±0.05" in line).split()[:2] == ["fp32.tflite", "2"]


@pytest.mark.parametrize(
    ("kernels", "architecture", "told"),
    [
        (SparseKernels(True, 0.8, ()), "aarch64", "it qualifies (80% zeros); XNNPACK takes sparse kernels for it"),
        (SparseKernels(True, 0.8, ()), "x86_64", "it qualifies (80% zeros); on x86-64 no gain can be shown"),
        (SparseKernels(False, 0.5, ("prune more",)), "aarch64", "no; prune more"),
    ],
)
def test_a_model_with_pruned_1x1_convolutions_is_told_of_sparse_kernels(
    kernels: SparseKernels, architecture: str, told: str
) -> None:
    machine = msgspec.structs.replace(_MACHINE, architecture=architecture)
    row = msgspec.structs.replace(_FIRST, sparse_kernels=kernels)
    text = _rendered(msgspec.structs.replace(_REPORT, machine=machine, models=(row, _SECOND)))
    (line,) = [line for line in text.splitlines() if line.startswith("Sparse kernels")]
    assert line.startswith(f"Sparse kernels for fp32.tflite: {told}")
