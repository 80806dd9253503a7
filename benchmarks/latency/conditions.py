"""The conditions of a measurement: what the machine tells of its load, clock, heat and memory.

Everything is read from the kernel's files, and on a Raspberry Pi from its firmware. What a machine does not tell is
None.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

_THROTTLING = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
    16: "under-voltage since boot",
    17: "frequency capped since boot",
    18: "throttled since boot",
    19: "soft temperature limit since boot",
}
"""Bits of the Raspberry Pi firmware's answer to get_throttled."""

SINCE_BOOT = " since boot"
"""The end of the names of what was once so, and need not be so now."""

_FIRMWARE_PATIENCE_SECONDS = 5


class Reading(msgspec.Struct, frozen=True):
    """What the machine tells at one moment.

    `load_average` is that of the last minute, this process's own load included. `frequency_mhz` is the clock of the
    fastest core that this process may use, since others sleep while one works, and `max_frequency_mhz` the most that
    the hardware allows. `throttling` names what the firmware of a Raspberry Pi says; empty if it says nothing is so.
    """

    load_average: float | None
    governor: str | None
    frequency_mhz: float | None
    max_frequency_mhz: float | None
    temperature_c: float | None
    throttling: tuple[str, ...] | None
    available_memory_mb: float | None


class Observation(msgspec.Struct, frozen=True):
    """A reading, and what the cores that this process may use did in the `elapsed_s` since the one before.

    `others_cpu_s` is processor time of processes other than the benchmark's, `stolen_cpu_s` what a hypervisor gave to
    other machines, both summed over these cores.
    """

    reading: Reading
    elapsed_s: float
    others_cpu_s: float | None
    stolen_cpu_s: float | None


class Conditions(msgspec.Struct, frozen=True):
    """The conditions of a whole benchmark. `during` holds the worst of each that was seen between turns: the highest
    load and temperature, the lowest clock and memory, all throttling.

    `others_cores` is how many cores others kept busy on average, `stolen_cores` how many a hypervisor took away.
    """

    before: Reading
    during: Reading
    after: Reading
    elapsed_s: float
    others_cores: float | None
    stolen_cores: float | None


class Watch:
    """Looks at the machine from time to time. `root` is replaced in tests by another machine's files."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._last: tuple[float, float, _CpuTimes | None] | None = None

    def look(self, own_cpu_s: float) -> Observation:
        """`own_cpu_s` is processor time that the benchmark's processes have used so far."""
        now, times = time.monotonic(), _read_cpu_times(self._root)
        last, self._last = self._last, (now, own_cpu_s, times)
        reading = read_conditions(self._root)
        if last is None:
            return Observation(reading, 0.0, None, None)
        then, own_then, times_then = last
        if times is None or times_then is None:
            return Observation(reading, now - then, None, None)
        others = (times.busy_s - times_then.busy_s) - (own_cpu_s - own_then)
        return Observation(reading, now - then, others, times.stolen_s - times_then.stolen_s)


def read_conditions(root: Path = Path("/")) -> Reading:
    cores = [root / f"sys/devices/system/cpu/cpu{core}/cpufreq" for core in sorted(os.sched_getaffinity(0))]
    return Reading(
        load_average=_number(read_text(root / "proc/loadavg").partition(" ")[0]),
        governor=read_text(cores[0] / "scaling_governor") or None,
        frequency_mhz=_frequency(root, cores),
        max_frequency_mhz=_highest([_megahertz(read_text(core / "cpuinfo_max_freq")) for core in cores]),
        temperature_c=_temperature(read_text(root / "sys/class/thermal/thermal_zone0/temp")),
        throttling=_throttling(_firmwares_flags(root)),
        available_memory_mb=_available_memory(read_text(root / "proc/meminfo")),
    )


def summarise_conditions(observations: Sequence[Observation]) -> Conditions:
    """The conditions of a benchmark from all observations of it, in order; the first one is from before it began."""
    readings = [observation.reading for observation in observations]
    timed = [each for each in observations if each.others_cpu_s is not None and each.stolen_cpu_s is not None]
    elapsed = sum(each.elapsed_s for each in timed)
    return Conditions(
        before=readings[0],
        during=_worst(readings[1:-1] or readings[-1:]),
        after=readings[-1],
        elapsed_s=sum(each.elapsed_s for each in observations),
        others_cores=_a_second([each.others_cpu_s for each in timed], elapsed),
        stolen_cores=_a_second([each.stolen_cpu_s for each in timed], elapsed),
    )


def read_text(path: Path) -> str:
    """A small text file's content without the device tree's closing NUL; empty where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return ""


class _CpuTimes(msgspec.Struct, frozen=True):
    """Seconds since the machine started, of the cores that this process may use."""

    busy_s: float
    stolen_s: float


def _read_cpu_times(root: Path) -> _CpuTimes | None:
    """From /proc/stat. Interrupts and waiting for disks belong to nobody, and are not counted as busy."""
    ticks_a_second = os.sysconf("SC_CLK_TCK")
    cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    lines = [line.split() for line in read_text(root / "proc/stat").splitlines()]
    rows = [
        list(map(int, line[1:9])) for line in lines if line and line[0] in cores and all(map(str.isdecimal, line[1:]))
    ]
    if not rows or min(map(len, rows)) < 8:
        return None
    user, nice, system, _, _, _, _, stolen = (sum(column) / ticks_a_second for column in zip(*rows, strict=True))
    return _CpuTimes(user + nice + system, stolen)


def _worst(readings: Sequence[Reading]) -> Reading:
    told = [reading.throttling for reading in readings if reading.throttling is not None]
    return Reading(
        load_average=_highest([reading.load_average for reading in readings]),
        governor=readings[-1].governor,
        frequency_mhz=_lowest([reading.frequency_mhz for reading in readings]),
        max_frequency_mhz=_highest([reading.max_frequency_mhz for reading in readings]),
        temperature_c=_highest([reading.temperature_c for reading in readings]),
        throttling=tuple(name for name in _THROTTLING.values() if any(name in names for names in told))
        if told
        else None,
        available_memory_mb=_lowest([reading.available_memory_mb for reading in readings]),
    )


def _a_second(seconds: Sequence[float | None], elapsed: float) -> float | None:
    """Processor seconds a second: a number of cores. Not below 0: clocks of processes and cores differ by a tick."""
    return max(sum(filter(None, seconds)) / elapsed, 0.0) if elapsed > 0 else None


def _frequency(root: Path, cores: Sequence[Path]) -> float | None:
    """Where the kernel scales no clock (virtual machines) /proc/cpuinfo may tell it."""
    scaled = _highest([_megahertz(read_text(core / "scaling_cur_freq")) for core in cores])
    told = re.findall(r"^cpu MHz\s*: (\d{1,6}(?:\.\d+)?)$", read_text(root / "proc/cpuinfo"), re.MULTILINE)
    return scaled if scaled is not None else _highest([float(number) for number in told])


def _megahertz(kilohertz: str) -> float | None:
    return int(kilohertz) / 1000 if re.fullmatch(r"[0-9]{1,9}", kilohertz) else None


def _temperature(millidegrees: str) -> float | None:
    return int(millidegrees) / 1000 if re.fullmatch(r"-?[0-9]{1,6}", millidegrees) else None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]{1,6}\.[0-9]{1,6}", text) else None


def _available_memory(meminfo: str) -> float | None:
    found = re.search(r"^MemAvailable:\s*([0-9]{1,12}) kB$", meminfo, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else None


def _firmwares_flags(root: Path) -> str:
    """The answer of a Raspberry Pi's firmware: older kernels have it in a file, newer ones through a program."""
    flags = read_text(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    program = root / "usr/bin/vcgencmd"
    if flags or not program.exists():
        return flags
    try:
        answer = subprocess.run(
            [program, "get_throttled"], capture_output=True, timeout=_FIRMWARE_PATIENCE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.decode(errors="replace").strip().removeprefix("throttled=")


def _throttling(flags: str) -> tuple[str, ...] | None:
    if not re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", flags):
        return None
    return tuple(name for bit, name in _THROTTLING.items() if int(flags, 16) >> bit & 1)


def _highest(numbers: Sequence[float | None]) -> float | None:
    return max((number for number in numbers if number is not None), default=None)


def _lowest(numbers: Sequence[float | None]) -> float | None:
    return min((number for number in numbers if number is not None), default=None)
