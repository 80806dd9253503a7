"""The report as a person sees it."""

from __future__ import annotations

import click
import msgspec

from benchmarks.latency.results import Failed, Latency, Measured, Ratio, Report
from benchmarks.latency.table import render
from benchmarks.latency.this_machine import Machine

_MACHINE = Machine("Cortex-A72", 4, "aarch64", "Raspberry Pi 4", "Debian 12", "3.11.2", 64, "performance", 50.0, ())
_LATENCY = Latency(min=12.25, p50=13.5, p90=14.0, p99=15.0, mean=13.6, std=0.125)
_FIRST = Measured("runs/a/fp32.tflite", 436_516, ((1, 28, 28, 1),), 1.5, _LATENCY, 50.25, None)
_SECOND = Measured("runs/a/int8.tflite", 114_448, ((1, 28, 28, 1),), 1.5, _LATENCY, 49.5, Ratio(0.51, 0.50, 0.54))
_REPORT = Report(_MACHINE, "ai-edge-litert 2.3.0", 4, 100, 10, _FIRST.path, (_FIRST, _SECOND))


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
    report = msgspec.structs.replace(_REPORT, models=(Failed("x.tflite", "why"), _SECOND, _FIRST))
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


def test_disturbances_are_mentioned_only_where_there_are_any() -> None:
    disturbed = msgspec.structs.replace(_MACHINE, governor="ondemand", throttling=("under-voltage",))
    text = _rendered(msgspec.structs.replace(_REPORT, machine=disturbed))
    assert "under-voltage" in text
    assert "governor is ondemand" in text
    assert "governor" not in _rendered(_REPORT)
