"""The machine: processor, memory, disk, heat and power. Tests replace `root`, below which the kernel's files are."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from fedprune.doctor.finding import Finding, failed, ok, unknown, warning
from fedprune.system.conditions import SINCE_BOOT, Reading, read_conditions, read_text
from fedprune.system.usage import device_memory_mb

LEAST_DISK_MB = 64.0
"""Free space below which a round may fail: a task, a model and what a round leaves are written beside each other."""

SCARCE_DISK_MB = 512.0
LEAST_MEMORY_MB = 60.0
"""Available memory below which nothing trains: the runtime alone takes 50 MB."""

SCARCE_MEMORY_MB = 150.0
_HOT_C = 80.0
"""A Raspberry Pi's firmware lowers the clock from here on."""

_PROBE = ".doctor.draft"
"""A file that is written and deleted; it is called as drafts are, which the directory's owner clears away."""
_PROBE_BYTES = 64 * 1024

_NEEDED = {
    "x86_64": frozenset({"ssse3", "sse4_1", "sse4_2", "popcnt"}),
    "aarch64": frozenset({"fp", "asimd"}),
    "armv7l": frozenset({"neon", "vfpv4"}),
}
"""What LiteRT's wheels and numpy's are compiled for, by the names that /proc/cpuinfo has for it."""


def examine_cpu(root: Path = Path("/")) -> Finding:
    return judge_cpu(platform.machine(), read_text(root / "proc/cpuinfo"))


def judge_cpu(machine: str, cpuinfo: str) -> Finding:
    """`cpuinfo` is the text of /proc/cpuinfo; a sandbox may hide it."""
    check = "processor"
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    if found is None:
        return unknown(check, f"{machine}: /proc/cpuinfo does not tell what it can do")
    kind = "armv7l" if machine == "armv8l" else machine
    if kind not in _NEEDED:
        return failed(check, f"{machine}: no runtime is made for it", "use 64-bit Arm or x86, or 32-bit Arm from v7 on")
    missing = sorted(_NEEDED[kind].difference(found[1].split()))
    if missing:
        return failed(
            check,
            f"{machine} without {', '.join(missing)}, which LiteRT needs",
            "use a device that has it (a Pi 2 or later), or let a virtual machine pass its host's processor through",
        )
    return ok(check, f"{machine}, has what LiteRT needs")


def examine_memory(root: Path = Path("/")) -> Iterator[Finding]:
    yield judge_memory(device_memory_mb(), read_conditions(root).available_memory_mb)
    yield judge_memory_limits(
        read_text(root / "sys/fs/cgroup/cgroup.controllers"), read_text(root / "proc/cgroups"), _is_raspberry(root)
    )


def judge_memory(all_mb: float, available_mb: float | None) -> Finding:
    check, mending = "memory", "end other processes, or add swap (zram)"
    if available_mb is None:
        return unknown(check, f"{all_mb:.0f} MB, of which /proc/meminfo does not tell how much is available")
    told = f"{available_mb:.0f} of {all_mb:.0f} MB are available"
    if available_mb < LEAST_MEMORY_MB:
        return failed(check, f"{told}, too little to train", mending)
    if available_mb < SCARCE_MEMORY_MB:
        return warning(check, f"{told}, enough for small models alone", mending)
    return ok(check, told)


def judge_memory_limits(controllers: str, cgroups: str, is_raspberry: bool) -> Finding:
    """Limits such as systemd's MemoryMax work if the kernel's memory controller is on, which Raspberry Pi OS turns off.

    `controllers` are those of cgroup v2, `cgroups` the table of /proc.
    """
    check = "memory limits"
    enabled = re.search(r"^memory\s+\d+\s+\d+\s+1$", cgroups, re.MULTILINE)
    if "memory" in controllers.split() or enabled:
        return ok(check, "the kernel's memory controller is on")
    if not controllers and not cgroups:
        return unknown(check, "the kernel does not tell which controllers it has")
    place = "/boot/firmware/cmdline.txt" if is_raspberry else "the kernel's command line"
    return warning(
        check,
        "the kernel's memory controller is off: MemoryMax= of a unit, and a container's limit, do nothing",
        f"add cgroup_enable=memory to {place}, and start the machine again",
    )


def examine_disk(directory: Path) -> Finding:
    """Really write: quotas, inodes, a file system that became read-only and rights tell themselves in no other way."""
    check, place = "disk", _existing(directory)
    probe = place / _PROBE
    try:
        state = os.statvfs(place)
        with probe.open("wb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return failed(check, f"{place}: {error.strerror}", "free space, or make the directory this user's")
    finally:
        with contextlib.suppress(OSError):  # one that became read-only deletes nothing, not even what is not there
            probe.unlink(missing_ok=True)
    return judge_disk(directory, state.f_bavail * state.f_frsize / 1e6)


def judge_disk(directory: Path, free_mb: float) -> Finding:
    check, told, mending = "disk", f"{free_mb:,.0f} MB are free for {directory}", "free space"
    if free_mb < LEAST_DISK_MB:
        return failed(check, f"{told}, less than {LEAST_DISK_MB:.0f}: it is full", mending)
    if free_mb < SCARCE_DISK_MB:
        return warning(check, told, mending)
    return ok(check, told)


def examine_power(root: Path = Path("/")) -> Finding:
    return judge_power(read_conditions(root))


def judge_power(reading: Reading) -> Finding:
    check = "heat, power"
    now = [name for name in reading.throttling or () if not name.endswith(SINCE_BOOT)]
    before = [name for name in reading.throttling or () if name.endswith(SINCE_BOOT)]
    degrees = "" if reading.temperature_c is None else f"{reading.temperature_c:.0f} °C"
    if any("under-voltage" in name for name in (*now, *before)):
        told = ", ".join(filter(None, (degrees, *now, *before)))
        return warning(check, told, "take the power supply that is made for this board, with its own cable")
    if now or before or (reading.temperature_c or 0.0) >= _HOT_C:
        return warning(check, ", ".join(filter(None, (degrees, *now, *before))), "cool the board")
    if reading.throttling is None:
        return ok(check, f"{degrees or 'no temperature is told'}; throttling is not told")
    return ok(check, ", ".join(filter(None, (degrees, "no throttling"))))


def _existing(directory: Path) -> Path:
    """The directory, or where it would be made."""
    return next((place for place in (directory, *directory.absolute().parents) if place.is_dir()), Path("/"))


def _is_raspberry(root: Path) -> bool:
    return "raspberry pi" in read_text(root / "proc/device-tree/model").lower()
