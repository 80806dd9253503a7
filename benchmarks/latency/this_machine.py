"""The machine that was measured on. Everything is read from the kernel's files; what cannot be read is None."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

import msgspec

from fedprune.system.conditions import read_text

_ARM_PARTS = {
    0xB76: "ARM1176",
    0xC07: "Cortex-A7",
    0xD03: "Cortex-A53",
    0xD05: "Cortex-A55",
    0xD08: "Cortex-A72",
    0xD0B: "Cortex-A76",
}
"""Part numbers of Arm's own cores, as of the Main ID Register: 64-bit kernels give no model name."""


class Machine(msgspec.Struct, frozen=True):
    """`cores` are those that this process may use; `python_bits` tells a 32-bit system on a 64-bit kernel."""

    cpu: str | None
    cores: int
    architecture: str
    board: str | None
    os: str
    python: str
    python_bits: int


def read_machine(root: Path = Path("/")) -> Machine:
    """Describe this machine, with the files below `root` (which a test replaces by those of another machine)."""
    return Machine(
        cpu=_cpu(read_text(root / "proc/cpuinfo")),
        cores=len(os.sched_getaffinity(0)),
        architecture=platform.machine(),
        board=read_text(root / "proc/device-tree/model") or None,
        os=_os_name(read_text(root / "etc/os-release")),
        python=platform.python_version(),
        python_bits=sys.maxsize.bit_length() + 1,
    )


def _cpu(cpuinfo: str) -> str | None:
    if name := re.search(r"^model name\s*: (.+)$", cpuinfo, re.MULTILINE):
        return name[1].strip()
    part = re.search(r"^CPU part\s*: 0x([0-9a-fA-F]+)$", cpuinfo, re.MULTILINE)
    return _ARM_PARTS.get(int(part[1], 16), f"Arm part 0x{part[1]}") if part else None


def _os_name(os_release: str) -> str:
    name = re.search(r'^PRETTY_NAME="?([^"\n]+)"?$', os_release, re.MULTILINE)
    return name[1] if name else platform.system()
