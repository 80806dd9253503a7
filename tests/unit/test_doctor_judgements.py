"""What the doctor makes of what a machine tells, of machines that are not here."""

from __future__ import annotations

import errno
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedprune.doctor.certificate_dates import validity
from fedprune.doctor.clock import judge_clock, judge_dates
from fedprune.doctor.finding import Verdict
from fedprune.doctor.machine import examine_disk, judge_cpu, judge_disk, judge_memory, judge_memory_limits, judge_power
from fedprune.doctor.runtime import judge_trial
from fedprune.doctor.secrets import judge_rights
from fedprune.errors import ProtocolError
from fedprune.identity.certificates import issue_client, new_authority
from fedprune.system.conditions import read_conditions
from tests.benchmarked import QUIET

NOW = datetime(2027, 5, 1, 12, 0, tzinfo=UTC)
PI_4 = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU part\t: 0xd08\n"
PI_ZERO = "processor\t: 0\nFeatures\t: half thumb fastmult vfp edsp java tls\nCPU part\t: 0xb76\n"
PI_2 = "processor\t: 0\nFeatures\t: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva\n"
CORE_2 = "model name\t: Core 2\nflags\t\t: fpu sse sse2 ssse3 cx16\n"


@pytest.mark.parametrize(("machine", "cpuinfo"), [("aarch64", PI_4), ("armv7l", PI_2), ("armv8l", PI_2)])
def test_a_processor_with_what_litert_needs_is_well(machine: str, cpuinfo: str) -> None:
    assert judge_cpu(machine, cpuinfo).verdict is Verdict.OK


def test_a_processor_without_what_litert_needs_is_named_with_what_it_lacks() -> None:
    found = judge_cpu("x86_64", CORE_2)
    assert found.verdict is Verdict.FAILED
    assert found.told == "x86_64 without popcnt, sse4_1, sse4_2, which LiteRT needs"
    assert judge_cpu("armv7l", PI_ZERO).told == "armv7l without neon, vfpv4, which LiteRT needs"
    assert judge_cpu("armv6l", PI_ZERO).verdict is Verdict.FAILED
    assert judge_cpu("aarch64", "").verdict is Verdict.UNKNOWN


def test_a_runtime_that_is_ended_by_an_illegal_instruction_is_told_as_that() -> None:
    found = judge_trial(-signal.SIGILL, b"", b"")
    assert "uses instructions that this processor does not have" in found.told
    assert judge_trial(-signal.SIGSEGV, b"", b"").told == "LiteRT was ended by SIGSEGV"
    assert "No module named 'fedprune'" in judge_trial(1, b"", b"Traceback\nNo module named 'fedprune'\n").told
    assert judge_trial(0, b'{"runtime":"ai-edge-litert 2.3.0","problem":""}', b"").verdict is Verdict.OK


def test_a_clock_before_the_installation_is_wrong() -> None:
    installed = datetime(2027, 1, 1, tzinfo=UTC)
    assert judge_clock(NOW, installed).verdict is Verdict.OK
    assert judge_clock(datetime(2026, 12, 31, tzinfo=UTC), installed).verdict is Verdict.FAILED


def test_a_clock_that_is_ten_years_after_the_installation_is_doubted() -> None:
    installed = datetime(2017, 1, 1, tzinfo=UTC)
    assert judge_clock(NOW, installed).verdict is Verdict.WARNING


def test_a_certificate_is_judged_by_its_dates() -> None:
    def verdict(first: int, last: int) -> Verdict:
        return judge_dates("it", datetime(first, 1, 1, tzinfo=UTC), datetime(last, 5, 20, tzinfo=UTC), NOW).verdict

    assert verdict(2020, 2030) is Verdict.OK
    assert verdict(2020, 2027) is Verdict.WARNING
    assert verdict(2020, 2026) is Verdict.FAILED
    assert verdict(2028, 2030) is Verdict.FAILED


def test_dates_are_read_from_certificates_of_our_own_authority_and_from_nothing_else() -> None:
    authority = new_authority("tests", NOW)
    begins, ends = validity(issue_client(authority, "pi-1", NOW).certificate)
    assert begins < NOW < ends
    assert (ends - NOW).days == 10 * 365
    for text in (b"", b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", authority.key):
        with pytest.raises(ProtocolError, match="no certificate in PEM"):
            validity(text)


def test_memory_limits_are_known_to_work_where_the_controller_is_on() -> None:
    table = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t80\t1\nmemory\t0\t80\t{}\n"
    assert judge_memory_limits("cpuset cpu io memory pids", "", False).verdict is Verdict.OK
    assert judge_memory_limits("", table.format(1), False).verdict is Verdict.OK
    off = judge_memory_limits("cpuset cpu io pids", table.format(0), True)
    assert off.verdict is Verdict.WARNING
    assert off.mending.startswith("add cgroup_enable=memory to /boot/firmware/cmdline.txt")


def test_scarce_memory_and_disks_are_told_before_they_are_full() -> None:
    assert [judge_memory(512, mb).verdict for mb in (400.0, 100.0, 40.0)] == ["ok", "warning", "failed"]
    assert [judge_disk(Path("x"), mb).verdict for mb in (1000.0, 200.0, 1.0)] == ["ok", "warning", "failed"]


def test_under_voltage_is_told_with_its_cure_also_where_the_kernel_alone_knows_of_it(tmp_path: Path) -> None:
    monitor = tmp_path / "sys/class/hwmon/hwmon1"
    monitor.mkdir(parents=True)
    (monitor / "name").write_text("rpi_volt\n")
    for alarm, verdict in (("1", Verdict.WARNING), ("0", Verdict.OK)):
        (monitor / "in0_lcrit_alarm").write_text(f"{alarm}\n")
        assert judge_power(read_conditions(tmp_path)).verdict is verdict
    assert judge_power(QUIET).verdict is Verdict.OK


def test_a_secret_is_its_owners_alone() -> None:
    key = Path("key")
    assert judge_rights("key", key, 0o600, 1000, 1000).verdict is Verdict.OK
    assert judge_rights("key", key, 0o640, 1000, 1000).verdict is Verdict.WARNING
    assert judge_rights("key", key, 0o604, 1000, 1000).verdict is Verdict.FAILED
    assert judge_rights("key", key, 0o600, 1000, 1001).verdict is Verdict.WARNING


def test_a_file_system_that_became_read_only_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a worn card's does: there no file can be deleted either, whether it is there or not."""

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    found = examine_disk(tmp_path)
    assert (found.verdict, found.told) == (Verdict.FAILED, f"{tmp_path}: Read-only file system")
