"""A good guest: when a device lets the agent train, by what its owner has written into agent.toml. Pure."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, time
from typing import Annotated

import msgspec

from fedprune.system.conditions import Reading

_COOLER_C = 5.0
"""How much cooler a device that waits has to become, so that it does not go on and off at the limit."""

_EASIER = 0.8
"""The part of its limit that the load has to fall to; free memory has to rise to its limit over this."""

_HOURS = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")


class Guest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[guest]`` table. What is not set limits nothing, but for the bytes that are written.

    `hours` are of local time and may cross midnight. `max_load` is of the last minute, without the agent's own threads.
    `min_memory_mb` has to be available. `metered` are patterns of network interfaces: while the default route goes over
    one of them, no round is begun.
    """

    hours: str | None = None
    max_temperature_c: Annotated[float, msgspec.Meta(ge=0, le=150)] | None = None
    max_load: Annotated[float, msgspec.Meta(ge=0, le=1000)] | None = None
    min_memory_mb: Annotated[float, msgspec.Meta(ge=0, le=1e6)] | None = None
    metered: tuple[str, ...] = ()
    max_written_mb_per_day: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = 10_000.0

    def __post_init__(self) -> None:
        if self.hours is not None:
            _window(self.hours)


@dataclass(frozen=True)
class Moment:
    """What there is at one moment: local time, the machine's reading, the interface of the default route (None without
    one), MB that this process has written since midnight or its start, and its threads that train now."""

    now: datetime
    reading: Reading
    interface: str | None
    written_mb: float
    own_threads: int


def why_not(guest: Guest, moment: Moment, *, is_waiting: bool) -> str:
    """Why nothing may be trained at this moment, in some words; empty if it may. An agent that `is_waiting` waits until
    what it waits for is well past.

    Example:
        >>> reading = Reading(0.1, None, None, None, 81.0, None, 700.0)
        >>> moment = Moment(datetime(2026, 11, 26, 12, 0), reading, "eth0", 0.0, 0)
        >>> why_not(Guest(max_temperature_c=70), moment, is_waiting=False)
        'it is 81 °C, at most 70 are allowed'
    """
    return next(_reasons(guest, moment, is_waiting), "")


def _reasons(guest: Guest, moment: Moment, is_waiting: bool) -> Iterator[str]:
    reading = moment.reading
    if guest.hours is not None and not _is_within(moment.now.time(), *_window(guest.hours)):
        yield f"it is {moment.now:%H:%M}, and it may train at {guest.hours}"
    if guest.max_temperature_c is not None and reading.temperature_c is not None:
        limit = guest.max_temperature_c - (_COOLER_C if is_waiting else 0.0)
        if reading.temperature_c > limit:
            yield f"it is {reading.temperature_c:.0f} °C, at most {limit:.0f} are allowed"
    if guest.max_load is not None and reading.load_average is not None:
        load, limit = reading.load_average - moment.own_threads, guest.max_load * (_EASIER if is_waiting else 1.0)
        if load > limit:
            yield f"the load of others is {load:.1f}, at most {limit:.1f} is allowed"
    if guest.min_memory_mb is not None and reading.available_memory_mb is not None:
        limit = guest.min_memory_mb / (_EASIER if is_waiting else 1.0)
        if reading.available_memory_mb < limit:
            yield f"{reading.available_memory_mb:.0f} MB of memory are available, at least {limit:.0f} are wanted"
    if moment.interface is not None and any(fnmatch.fnmatchcase(moment.interface, each) for each in guest.metered):
        yield f"the network is metered: it goes over {moment.interface}"
    if moment.written_mb > guest.max_written_mb_per_day:
        yield f"{moment.written_mb:,.0f} MB were written today, at most {guest.max_written_mb_per_day:,.0f} are allowed"


def _window(hours: str) -> tuple[time, time]:
    """Raises `ValueError`, which is told with the key."""
    found = _HOURS.fullmatch(hours)
    try:
        if found is None:
            raise ValueError
        first, last = time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4]))
    except ValueError as error:
        raise ValueError(f"{hours!r} is no time window; write one such as 22:00-06:30") from error
    if first == last:
        raise ValueError(f"{hours!r} is empty; leave it out to train at any time")
    return first, last


def _is_within(now: time, first: time, last: time) -> bool:
    return first <= now < last if first < last else now >= first or now < last
