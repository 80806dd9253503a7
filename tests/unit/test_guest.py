"""A good guest trains when its device permits it, and says why it waits."""

from __future__ import annotations

import queue
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.agent_state import PermissionChanged
from edge_agent.guest import Guest, Moment, why_not
from edge_agent.guest_watch import GuestWatch
from edge_agent.settings import AgentSettings
from fedprune.config import from_table
from fedprune.errors import ConfigurationError
from fedprune.system.routes import default_interface
from fedprune.system.usage import bytes_written
from tests.benchmarked import QUIET

NOON = datetime(2026, 11, 26, 12, 0)
_ROUTE = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"


def reason(guest: Guest, *, is_waiting: bool = False, now: datetime = NOON, **changes: Any) -> str:
    others = {key: changes.pop(key) for key in ("interface", "written_mb", "own_threads") if key in changes}
    reading = msgspec.structs.replace(QUIET, **changes)
    moment = {"interface": "eth0", "written_mb": 0.0, "own_threads": 0} | others
    return why_not(guest, Moment(now, reading, **moment), is_waiting=is_waiting)


def test_without_limits_everything_is_permitted() -> None:
    assert not reason(Guest(), temperature_c=99.0, load_average=9.0, available_memory_mb=1.0)


@pytest.mark.parametrize(
    ("hours", "permitted"),
    [("22:00-06:30", {22, 23, *range(7)}), ("11:00-13:00", {11, 12}), ("00:00-12:00", set(range(12)))],
)
def test_a_time_window_may_cross_midnight(hours: str, permitted: set[int]) -> None:
    found = {hour for hour in range(24) if not reason(Guest(hours=hours), now=NOON.replace(hour=hour))}
    assert found == permitted
    assert reason(Guest(hours="22:00-06:30")) == "it is 12:00, and it may train at 22:00-06:30"


@pytest.mark.parametrize("hours", ["22-6", "24:00-06:00", "06:00-06:00", "", "10:00-11:60"])
def test_a_window_that_is_none_is_refused_with_its_key(hours: str) -> None:
    with pytest.raises(ConfigurationError, match="guest"):
        from_table({"name": "a", "data": "b", "guest": {"hours": hours}}, AgentSettings, "agent.toml")


def test_each_limit_has_a_reason_of_its_own() -> None:
    assert reason(Guest(max_temperature_c=70), temperature_c=71.0) == "it is 71 °C, at most 70 are allowed"
    assert "load of others is 2.5" in reason(Guest(max_load=2), load_average=2.5)
    assert "50 MB of memory are available" in reason(Guest(min_memory_mb=100), available_memory_mb=50.0)
    assert "goes over wwan0" in reason(Guest(metered=("wwan*", "ppp0")), interface="wwan0")
    assert "300 MB were written today" in reason(Guest(max_written_mb_per_day=200), written_mb=300.0)


def test_its_own_threads_are_no_load_of_others() -> None:
    assert not reason(Guest(max_load=2), load_average=3.5, own_threads=2)


def test_who_waits_goes_on_only_once_it_is_well_past() -> None:
    for guest, changes in (
        (Guest(max_temperature_c=70), {"temperature_c": 68.0}),
        (Guest(max_load=2), {"load_average": 1.9}),
        (Guest(min_memory_mb=100), {"available_memory_mb": 110.0}),
    ):
        assert not reason(guest, **changes)
        assert reason(guest, is_waiting=True, **changes)


def test_what_a_machine_does_not_tell_limits_nothing() -> None:
    guest = Guest(max_temperature_c=1, max_load=0, min_memory_mb=1e6, metered=("*",))
    assert not reason(guest, temperature_c=None, load_average=None, available_memory_mb=None, interface=None)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n", "eth0"),
        (
            "wwan0\t00000000\t0101A8C0\t0003\t0\t0\t700\t00000000\t0\t0\t0\n"
            "wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n",
            "wlan0",
        ),
        ("eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n", None),
        ("eth0\t00000000\t0101A8C0\t0002\t0\t0\t100\t00000000\t0\t0\t0\n", None),
        ("nonsense\n", None),
    ],
)
def test_the_default_route_is_the_one_of_the_lowest_metric(tmp_path: Path, table: str, expected: str | None) -> None:
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/route").write_text(_ROUTE + table)
    assert default_interface(tmp_path) == expected


def test_a_default_route_of_ipv6_counts_where_there_is_no_other(tmp_path: Path) -> None:
    (tmp_path / "proc/net").mkdir(parents=True)
    zeros = "0" * 32
    (tmp_path / "proc/net/ipv6_route").write_text(
        f"{zeros} 00 {zeros} 00 fe80{'0' * 28} 00000400 00000001 00000000 00000003     usb0\n"
        f"{zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200       lo\n"
    )
    assert default_interface(tmp_path) == "usb0"


def test_what_this_process_writes_is_counted(tmp_path: Path) -> None:
    before = bytes_written()
    assert before is not None
    (tmp_path / "blob").write_bytes(bytes(2**20))
    after = bytes_written()
    assert after is not None
    assert after >= before
    assert bytes_written(tmp_path) is None


def test_the_watch_holds_the_training_at_once_and_says_why_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    thermal, held = tmp_path / "sys/class/thermal/thermal_zone0", list[bool]()
    flags = tmp_path / "sys/devices/platform/soc/soc:firmware"
    thermal.mkdir(parents=True)
    flags.mkdir(parents=True)
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    watch = GuestWatch(Guest(max_temperature_c=70), lambda: 0, held.append, events, tmp_path)
    for minute, (degrees, power) in enumerate(((60, "0"), (75, "1"), (76, "1"), (68, "0"), (60, "1"))):
        (thermal / "temp").write_text(f"{degrees}000\n")
        (flags / "get_throttled").write_text(f"{power}\n")
        watch.look(NOON.replace(minute=minute))
    assert held == [True, False]
    assert [events.get_nowait() for _ in range(2)] == [
        PermissionChanged("it is 75 °C, at most 70 are allowed"),
        PermissionChanged(""),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "the board reports under-voltage; take the power supply that is made for this board"
    ]


def test_a_new_day_has_a_budget_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    held = list[bool]()
    watch = GuestWatch(Guest(max_written_mb_per_day=1), lambda: 0, held.append, queue.SimpleQueue(), tmp_path)
    today = datetime.now()
    for written, now in ((0, today), (2_000_000, today), (2_100_000, today.replace(year=today.year + 1, day=1))):
        (tmp_path / "proc/self/io").write_text(f"read_bytes: 9\nwrite_bytes: {written}\n")
        watch.look(now)
    assert held == [True, False]
