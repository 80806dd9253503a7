"""The machine that was measured on. Everything is read from the kernel's files; what cannot be read is None."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

import msgspec

_ARM_PARTS = {
    0xB76: "ARM1176",
    0xC07: "Cortex-A7",
    0xD03: "Cortex-A53",
    0xD05: "Cortex-A55",
    0xD08: "Cortex-A72",
    0xD0B: "Cortex-A76",
}
"""Part numbers of Arm's own cores, as of the Main ID Register: 64-bit kernels give no model name."""

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


class Machine(msgspec.Struct, frozen=True):
    """`cores` are those that this process may use; `python_bits` tells a 32-bit system on a 64-bit kernel."""

    cpu: str | None
    cores: int
    architecture: str
    board: str | None
    os: str
    python: str
    python_bits: int
    governor: str | None
    temperature_c: float | None
    throttling: tuple[str, ...] | None


def read_machine(root: Path = Path("/")) -> Machine:
    """Describe this machine, with the files below `root` (which a test replaces by those of another machine)."""
    return Machine(
        cpu=_cpu(_read(root / "proc/cpuinfo")),
        cores=len(os.sched_getaffinity(0)),
        architecture=platform.machine(),
        board=_read(root / "proc/device-tree/model") or None,
        os=_os_name(_read(root / "etc/os-release")),
        python=platform.python_version(),
        python_bits=sys.maxsize.bit_length() + 1,
        governor=_read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        temperature_c=_temperature(_read(root / "sys/class/thermal/thermal_zone0/temp")),
        throttling=_throttling(_read(root / "sys/devices/platform/soc/soc:firmware/get_throttled")),
    )


def _read(path: Path) -> str:
    """A small text file's content without the device tree's closing NUL; empty where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return ""


def _cpu(cpuinfo: str) -> str | None:
    if name := re.search(r"^model name\s*: (.+)$", cpuinfo, re.MULTILINE):
        return name[1].strip()
    part = re.search(r"^CPU part\s*: 0x([0-9a-fA-F]+)$", cpuinfo, re.MULTILINE)
    return _ARM_PARTS.get(int(part[1], 16), f"Arm part 0x{part[1]}") if part else None


def _os_name(os_release: str) -> str:
    name = re.search(r'^PRETTY_NAME="?([^"\n]+)"?$', os_release, re.MULTILINE)
    return name[1] if name else platform.system()


def _temperature(millidegrees: str) -> float | None:
    return int(millidegrees) / 1000 if re.fullmatch(r"-?\d{1,6}", millidegrees) else None


def _throttling(flags: str) -> tuple[str, ...] | None:
    if not re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", flags):
        return None
    return tuple(name for bit, name in _THROTTLING.items() if int(flags, 16) >> bit & 1)
