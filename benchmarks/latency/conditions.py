"""The conditions of a measurement: what the machine was seen to be in before, between and after its turns."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fedprune.system.conditions import THROTTLING, Reading, highest, lowest, read_conditions, read_text


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
        load_average=highest([reading.load_average for reading in readings]),
        governor=readings[-1].governor,
        frequency_mhz=lowest([reading.frequency_mhz for reading in readings]),
        max_frequency_mhz=highest([reading.max_frequency_mhz for reading in readings]),
        temperature_c=highest([reading.temperature_c for reading in readings]),
        throttling=tuple(name for name in THROTTLING.values() if any(name in names for names in told))
        if told
        else None,
        available_memory_mb=lowest([reading.available_memory_mb for reading in readings]),
    )


def _a_second(seconds: Sequence[float | None], elapsed: float) -> float | None:
    """Processor seconds a second: a number of cores. Not below 0: clocks of processes and cores differ by a tick."""
    return max(sum(filter(None, seconds)) / elapsed, 0.0) if elapsed > 0 else None
