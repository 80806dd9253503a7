"""The conditions that a machine is in: what it tells of its load, clock, heat, power and memory.

Everything is read from the kernel's files, and on a Raspberry Pi from its firmware. What a machine does not tell is
None.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

THROTTLING = {
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


def read_conditions(root: Path = Path("/"), *, asks_firmware: bool = True) -> Reading:
    """Without `asks_firmware` no program is started, and nothing is told of throttling."""
    cores = [root / f"sys/devices/system/cpu/cpu{core}/cpufreq" for core in sorted(os.sched_getaffinity(0))]
    return Reading(
        load_average=_number(read_text(root / "proc/loadavg").partition(" ")[0]),
        governor=read_text(cores[0] / "scaling_governor") or None,
        frequency_mhz=_frequency(root, cores),
        max_frequency_mhz=highest([_megahertz(read_text(core / "cpuinfo_max_freq")) for core in cores]),
        temperature_c=_temperature(read_text(root / "sys/class/thermal/thermal_zone0/temp")),
        throttling=_power(root) if asks_firmware else None,
        available_memory_mb=_available_memory(read_text(root / "proc/meminfo")),
    )


def read_text(path: Path) -> str:
    """A small text file's content without the device tree's closing NUL; empty where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return ""


def _frequency(root: Path, cores: Sequence[Path]) -> float | None:
    """Where the kernel scales no clock (virtual machines) /proc/cpuinfo may tell it."""
    scaled = highest([_megahertz(read_text(core / "scaling_cur_freq")) for core in cores])
    told = re.findall(r"^cpu MHz\s*: (\d{1,6}(?:\.\d+)?)$", read_text(root / "proc/cpuinfo"), re.MULTILINE)
    return scaled if scaled is not None else highest([float(number) for number in told])


def _megahertz(kilohertz: str) -> float | None:
    return int(kilohertz) / 1000 if re.fullmatch(r"[0-9]{1,9}", kilohertz) else None


def _temperature(millidegrees: str) -> float | None:
    return int(millidegrees) / 1000 if re.fullmatch(r"-?[0-9]{1,6}", millidegrees) else None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]{1,6}\.[0-9]{1,6}", text) else None


def _available_memory(meminfo: str) -> float | None:
    found = re.search(r"^MemAvailable:\s*([0-9]{1,12}) kB$", meminfo, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else None


def _power(root: Path) -> tuple[str, ...] | None:
    """What the firmware says; where it says nothing, as in a sandbox, whether the kernel was told of under-voltage."""
    told = _throttling(_firmwares_flags(root))
    if told is not None:
        return told
    for monitor in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if read_text(monitor / "name") == "rpi_volt" and (alarm := read_text(monitor / "in0_lcrit_alarm")):
            return (THROTTLING[0],) if alarm == "1" else ()
    return None


def _firmwares_flags(root: Path) -> str:
    """The answer of a Raspberry Pi's firmware: older kernels have it in a file, newer ones through a program."""
    flags = read_text(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    program = root / "usr/bin/vcgencmd"
    if flags or not program.exists():
        return flags
    import subprocess  # an agent that waits does without

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
    return tuple(name for bit, name in THROTTLING.items() if int(flags, 16) >> bit & 1)


def highest(numbers: Sequence[float | None]) -> float | None:
    return max((number for number in numbers if number is not None), default=None)


def lowest(numbers: Sequence[float | None]) -> float | None:
    return min((number for number in numbers if number is not None), default=None)
