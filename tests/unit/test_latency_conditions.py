"""What a machine's files tell of its load, clock, heat and memory, and whether a benchmark on it can be trusted."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.latency.conditions import Observation, Watch, summarise_conditions
from benchmarks.latency.judgement import Disturbance, judge
from fedprune.system.conditions import (
    _available_memory,
    _megahertz,
    _number,
    _temperature,
    _throttling,
    read_conditions,
)
from tests.benchmarked import QUIET, quiet

_CORES = sorted(os.sched_getaffinity(0))
_CLOCK = f"sys/devices/system/cpu/cpu{_CORES[0]}/cpufreq"
_PI_4 = {
    "proc/loadavg": "0.52 0.58 0.59 1/123 4567\n",
    "proc/meminfo": "MemTotal: 3884092 kB\nMemFree: 3093492 kB\nMemAvailable: 3500000 kB\n",
    f"{_CLOCK}/scaling_governor": "ondemand\n",
    f"{_CLOCK}/scaling_cur_freq": "600000\n",
    f"{_CLOCK}/cpuinfo_max_freq": "1500000\n",
    "sys/class/thermal/thermal_zone0/temp": "48686\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
}


def _machine_of(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_a_raspberry_pi_tells_all(tmp_path: Path) -> None:
    reading = read_conditions(_machine_of(tmp_path, _PI_4))
    assert reading.load_average == 0.52
    assert (reading.governor, reading.frequency_mhz, reading.max_frequency_mhz) == ("ondemand", 600.0, 1500.0)
    assert reading.temperature_c == 48.686
    assert reading.available_memory_mb == pytest.approx(3584.0)
    assert reading.throttling == ("under-voltage", "throttled", "under-voltage since boot", "throttled since boot")


def test_what_a_machine_does_not_tell_is_null(tmp_path: Path) -> None:
    reading = read_conditions(tmp_path)
    assert set(msgspec.structs.asdict(reading).values()) == {None}
    observation = Watch(tmp_path).look(1.0)
    assert (observation.others_cpu_s, observation.stolen_cpu_s) == (None, None)
    assert summarise_conditions([observation]).others_cores is None


def test_a_newer_board_is_asked_through_its_program(tmp_path: Path) -> None:
    program = tmp_path / "usr/bin/vcgencmd"
    _machine_of(tmp_path, {"usr/bin/vcgencmd": "#!/bin/sh\necho throttled=0x80008\n"})
    program.chmod(0o755)
    assert read_conditions(tmp_path).throttling == ("soft temperature limit", "soft temperature limit since boot")


def test_a_program_that_fails_tells_nothing(tmp_path: Path) -> None:
    _machine_of(tmp_path, {"usr/bin/vcgencmd": "not a program"})
    assert read_conditions(tmp_path).throttling is None


def test_an_unthrottled_board_is_told_from_one_that_does_not_say() -> None:
    assert _throttling("0") == ()
    assert _throttling("0x0") == ()
    assert _throttling("") is None


def test_a_virtual_machine_may_tell_its_clock_elsewhere(tmp_path: Path) -> None:
    files = {"proc/cpuinfo": "cpu MHz\t\t: 2445.404\nflags: x\ncpu MHz\t\t: 2600.0\n"}
    reading = read_conditions(_machine_of(tmp_path, files))
    assert (reading.frequency_mhz, reading.max_frequency_mhz) == (2600.0, None)


@given(st.text())
def test_whatever_the_files_hold_is_survived(text: str) -> None:
    for reads in (_available_memory, _megahertz, _number, _temperature, _throttling):
        reads(text)


def _stat(busy_ticks: int, stolen_ticks: int) -> str:
    """Each core with so many ticks, half of them the user's; interrupts and idleness, which are nobody's, beside."""
    half = busy_ticks // 2
    return "".join(f"cpu{core} {half} 0 {half} 999 7 5 3 {stolen_ticks} 0 0\n" for core in _CORES)


def test_others_have_what_the_cores_did_beside_the_benchmark(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    watch = Watch(_machine_of(tmp_path, {"proc/stat": _stat(1000 * ticks, 0)}))
    first = watch.look(own_cpu_s=5.0)
    _machine_of(tmp_path, {"proc/stat": _stat(1004 * ticks, 2 * ticks)})
    second = watch.look(own_cpu_s=6.0)

    assert (first.elapsed_s, first.others_cpu_s) == (0.0, None)
    assert second.others_cpu_s == pytest.approx(4 * len(_CORES) - 1)
    assert second.stolen_cpu_s == pytest.approx(2 * len(_CORES))


def test_the_worst_between_the_turns_is_kept_and_processor_time_is_over_all() -> None:
    hot = msgspec.structs.replace(QUIET, temperature_c=83.0, load_average=3.0, throttling=("throttled",))
    slow = msgspec.structs.replace(QUIET, frequency_mhz=600.0, available_memory_mb=20.0, throttling=None)
    found = summarise_conditions(
        [
            Observation(QUIET, 0.0, None, None),
            Observation(hot, 2.0, 3.0, 0.0),
            Observation(slow, 1.0, 1.0, 1.5),
            Observation(QUIET, 1.0, 0.0, 0.5),
        ]
    )
    assert (found.before, found.after, found.elapsed_s) == (QUIET, QUIET, 4.0)
    assert (found.during.temperature_c, found.during.load_average) == (83.0, 3.0)
    assert (found.during.frequency_mhz, found.during.available_memory_mb) == (600.0, 20.0)
    assert found.during.throttling == ("throttled",)
    assert (found.others_cores, found.stolen_cores) == (1.0, 0.5)


_STEADY = [("a.tflite", [1.0, 1.01, 0.99, 1.02, 5.0, 1.0, 0.98, 1.0])]


def test_a_quiet_machine_has_no_flags() -> None:
    assert judge(quiet(), _STEADY) == ()
    silent = msgspec.convert(dict.fromkeys(QUIET.__struct_fields__), type(QUIET))
    unknown = quiet(before=silent, during=silent, after=silent, others_cores=None, stolen_cores=None)
    assert judge(unknown, _STEADY) == ()


@pytest.mark.parametrize(
    ("changes", "disturbance", "told"),
    [
        ({"others_cores": 2.0}, Disturbance.OTHERS, "2.0 cores"),
        ({"stolen_cores": 0.5}, Disturbance.STOLEN, "0.5 cores"),
    ],
)
def test_processor_time_that_others_had_is_flagged(
    changes: dict[str, float], disturbance: Disturbance, told: str
) -> None:
    (flag,) = judge(quiet(**changes), _STEADY)
    assert flag.disturbance == disturbance
    assert told in flag.told


@pytest.mark.parametrize(
    ("changes", "disturbance", "told"),
    [
        ({"throttling": ("under-voltage",)}, Disturbance.THROTTLED, "under-voltage"),
        ({"frequency_mhz": 900.0}, Disturbance.SLOW_CLOCK, "60%"),
        ({"temperature_c": 81.0}, Disturbance.HOT, "81 °C"),
        ({"available_memory_mb": 12.0}, Disturbance.MEMORY, "12 MB"),
    ],
)
@pytest.mark.parametrize("moment", ["during", "after"])
def test_what_a_machine_suffered_at_any_moment_is_flagged(
    moment: str, changes: dict[str, object], disturbance: Disturbance, told: str
) -> None:
    reading = msgspec.structs.replace(QUIET, **changes)
    (flag,) = judge(quiet(**{moment: reading}), _STEADY)
    assert flag.disturbance == disturbance
    assert told in flag.told


def test_a_clock_that_rests_before_the_benchmark_is_no_disturbance() -> None:
    assert judge(quiet(before=msgspec.structs.replace(QUIET, frequency_mhz=600.0)), _STEADY) == ()


def test_throttling_of_long_ago_is_no_disturbance_but_that_of_the_benchmark_is() -> None:
    once = msgspec.structs.replace(QUIET, throttling=("throttled since boot",))
    assert judge(quiet(before=once, during=once, after=once), _STEADY) == ()
    (flag,) = judge(quiet(after=once), _STEADY)
    assert flag.disturbance == Disturbance.THROTTLED


def test_a_latency_that_changes_from_block_to_block_is_flagged_with_its_model() -> None:
    (flag,) = judge(quiet(), [*_STEADY, ("b.tflite", [1.0, 1.5, 1.0, 1.6, 1.1, 1.4])])
    assert flag.disturbance == Disturbance.UNSTEADY
    assert flag.told.startswith("b.tflite")
