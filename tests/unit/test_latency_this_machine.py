"""What the kernel's files tell about a machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.latency.this_machine import _cpu, _os_name, read_machine

_PI_4 = {
    "proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\nCPU revision\t: 3\n",
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\n',
}


def _machine_of(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True)
        path.write_text(content)
    return root


def test_a_raspberry_pi_is_recognised(tmp_path: Path) -> None:
    machine = read_machine(_machine_of(tmp_path, _PI_4))
    assert machine.cpu == "Cortex-A72"
    assert machine.board == "Raspberry Pi 4 Model B Rev 1.4"
    assert machine.os == "Debian GNU/Linux 12 (bookworm)"


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert (machine.cpu, machine.board) == (None, None)
    assert machine.cores >= 1


def test_this_machine_can_be_read() -> None:
    machine = read_machine()
    assert machine.python_bits in (32, 64)
    assert machine.os


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [("model name\t: AMD EPYC\n", "AMD EPYC"), ("CPU part\t: 0xfff\n", "Arm part 0xfff"), ("processor\t: 0\n", None)],
)
def test_the_cpu_is_named_as_well_as_can_be(cpuinfo: str, name: str | None) -> None:
    assert _cpu(cpuinfo) == name


@given(st.text())
def test_whatever_the_files_hold_is_survived(text: str) -> None:
    _cpu(text)
    _os_name(text)
