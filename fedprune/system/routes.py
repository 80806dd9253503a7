"""The default route, as the kernel's tables have it: over which interface the rest of the world is reached."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from fedprune.system.conditions import read_text

_UP, _REJECT = 0x1, 0x200
"""Flags of a route (linux/route.h)."""

_EVERYTHING = "0" * 8
_EVERYTHING_6 = "0" * 32


def default_interface(root: Path = Path("/")) -> str | None:
    """The interface of the default route of the lowest metric, of IPv4 if there is one, else of IPv6; None without."""
    routes = [*_routes(read_text(root / "proc/net/route"))] or [*_routes_6(read_text(root / "proc/net/ipv6_route"))]
    return min(routes)[1] if routes else None


def _routes(table: str) -> Iterator[tuple[int, str]]:
    """(metric, interface) of each default route."""
    for line in table.splitlines():
        match line.split():
            case [name, destination, _, flags, _, _, metric, mask, *_] if (destination, mask) == (_EVERYTHING,) * 2:
                if metric.isdecimal() and _is_up(flags):
                    yield int(metric), name
            case _:
                continue


def _routes_6(table: str) -> Iterator[tuple[int, str]]:
    for line in table.splitlines():
        match line.split():
            case [destination, "00", _, _, _, metric, _, _, flags, name] if destination == _EVERYTHING_6:
                if re.fullmatch("[0-9a-f]{8}", metric) and _is_up(flags):
                    yield int(metric, 16), name
            case _:
                continue


def _is_up(flags: str) -> bool:
    return bool(re.fullmatch("[0-9a-fA-F]{1,8}", flags)) and int(flags, 16) & (_UP | _REJECT) == _UP
