"""The claims of the project about its agent: the limits that it sets itself."""

from __future__ import annotations

from benchmarks.agent_memory.figures import Figures

_MOST_PEAK_MB = 100.0
_MOST_IDLE_MB = 45.0
_MOST_INSTALLED_MB = 160.0
_MOST_FIRST_STEP_S = 2.0
_TIMES_SMALLER = 6.0


def claims(figures: dict[str, Figures]) -> dict[str, bool | None]:
    """Each claim and whether it holds; None for one that was not tried."""
    litert = figures["litert"]
    made: dict[str, bool | None] = {
        f"peak {litert.peak_rss_mb:.2f} MB, at most {_MOST_PEAK_MB:.0f}": litert.peak_rss_mb <= _MOST_PEAK_MB,
        f"idle {litert.idle_rss_mb:.2f} MB, at most {_MOST_IDLE_MB:.0f}": litert.idle_rss_mb <= _MOST_IDLE_MB,
        f"installed {litert.installed_mb:.2f} MB, at most {_MOST_INSTALLED_MB:.0f}": litert.installed_mb
        <= _MOST_INSTALLED_MB,
        f"first step after {litert.first_step_s:.2f} s, at most {_MOST_FIRST_STEP_S:.0f}": litert.first_step_s
        <= _MOST_FIRST_STEP_S,
    }
    for name in ("keras", "flower"):
        times = figures[name].peak_rss_mb / litert.peak_rss_mb
        made[f"{times:.2f}x less than {name} at its peak, at least {_TIMES_SMALLER:.0f}x"] = times >= _TIMES_SMALLER
    small = "a whole round in a cgroup of 64 MB"
    if isinstance(litert.trained_in_64_mb, str):
        made[f"{small}: {litert.trained_in_64_mb}"] = None
    else:
        made[small] = litert.trained_in_64_mb
    return made
