"""A benchmark that can be trusted has no flags: there is one for each thing that disturbed it, by named thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec
import numpy as np

from benchmarks.latency.conditions import Conditions
from fedprune.system.conditions import SINCE_BOOT

MOST_OTHERS_CORES = 0.25
"""Cores that others may keep busy: an idle system needs a few hundredths of one, and one hog is four times this."""
MOST_STOLEN_CORES = 0.1
"""Cores that a hypervisor may give to other machines meanwhile."""
LEAST_CLOCK = 0.8
"""The lowest clock that may be seen, as a fraction of what the hardware allows."""
HIGHEST_TEMPERATURE_C = 80.0
"""A Raspberry Pi's firmware lowers the clock from here on."""
LEAST_MEMORY_MB = 50.0
"""Available memory below which the kernel may drop a model's pages, and read them from the disk again."""
MOST_UNSTEADY = 0.1
"""The quartiles' range of a model's block medians over their median."""


class Disturbance(StrEnum):
    OTHERS = "others"
    """Other processes used the processor."""
    STOLEN = "stolen"
    """A hypervisor gave the processor to other machines."""
    THROTTLED = "throttled"
    """The firmware capped the clock, or the voltage was too low."""
    SLOW_CLOCK = "slow-clock"
    HOT = "hot"
    MEMORY = "memory"
    UNSTEADY = "unsteady"
    """A model's latency changed from block to block."""


class Flag(msgspec.Struct, frozen=True):
    """What disturbed a benchmark, and a line that says so to a person."""

    disturbance: Disturbance
    told: str


def judge(conditions: Conditions, block_medians: Sequence[tuple[str, Sequence[float]]]) -> tuple[Flag, ...]:
    """The flags of a benchmark; none for a quiet one. `block_medians`: each row's name and its medians, in ms."""
    return (*_of_conditions(conditions), *_of_latencies(block_medians))


def _of_conditions(conditions: Conditions) -> Iterator[Flag]:
    readings = (conditions.before, conditions.during, conditions.after)
    if conditions.others_cores is not None and conditions.others_cores > MOST_OTHERS_CORES:
        yield Flag(Disturbance.OTHERS, f"other processes kept {conditions.others_cores:.1f} cores busy: end them")
    if conditions.stolen_cores is not None and conditions.stolen_cores > MOST_STOLEN_CORES:
        yield Flag(
            Disturbance.STOLEN, f"the hypervisor gave {conditions.stolen_cores:.1f} cores' time to other machines"
        )
    if throttled := _throttled(conditions):
        yield Flag(
            Disturbance.THROTTLED, f"the board reports {', '.join(throttled)}: cool it, or mend its power supply"
        )
    clocks = [_clock(reading.frequency_mhz, reading.max_frequency_mhz) for reading in readings[1:]]
    if any(clock < LEAST_CLOCK for clock in clocks):
        yield Flag(
            Disturbance.SLOW_CLOCK,
            f"the clock was at {min(clocks):.0%} of the fastest that the hardware allows: the governor `performance` "
            "keeps it up",
        )
    hottest = max((each.temperature_c for each in readings if each.temperature_c is not None), default=0.0)
    if hottest >= HIGHEST_TEMPERATURE_C:
        yield Flag(Disturbance.HOT, f"the processor reached {hottest:.0f} °C: let it cool down, or cool it")
    memory = [each.available_memory_mb for each in readings if each.available_memory_mb is not None]
    if memory and min(memory) < LEAST_MEMORY_MB:
        yield Flag(Disturbance.MEMORY, f"only {min(memory):.0f} MB of memory were available: end other processes")


def _of_latencies(block_medians: Sequence[tuple[str, Sequence[float]]]) -> Iterator[Flag]:
    for name, medians in block_medians:
        low, middle, high = np.percentile(medians, (25, 50, 75))
        spread = (high - low) / middle
        if spread > MOST_UNSTEADY:
            told = f"{name}'s latency changed from block to block, by {spread:.0%} between the quartiles"
            yield Flag(Disturbance.UNSTEADY, told)


def _throttled(conditions: Conditions) -> list[str]:
    """What was so at any time of the benchmark. What was so since boot already before it began is no part of it."""
    earlier = set(conditions.before.throttling or ())
    seen = [
        *(conditions.before.throttling or ()),
        *(conditions.during.throttling or ()),
        *(conditions.after.throttling or ()),
    ]
    return [name for name in dict.fromkeys(seen) if not name.endswith(SINCE_BOOT) or name not in earlier]


def _clock(frequency_mhz: float | None, max_frequency_mhz: float | None) -> float:
    """1 where it is not known."""
    return 1.0 if frequency_mhz is None or not max_frequency_mhz else frequency_mhz / max_frequency_mhz
