"""The figures that are measured of each trainer, and the work that all of them are given."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

EXAMPLES = 1_600
BATCH_SIZE = 32
STEPS = EXAMPLES // BATCH_SIZE
ROUNDS = 5
"""Rounds that throughput is the median of."""
STARTS = 3
"""Fresh processes that the time to the first step is the median of."""
LEARNING_RATE, MOMENTUM = 0.05, 0.9

SMALL_MEMORY = 64_000_000
"""Bytes that a small device may have for an agent."""


class Figures(msgspec.Struct, frozen=True, omit_defaults=True):
    """One trainer's. Memory is a high-water mark of one process as the kernel reports it; MB are 10^6 bytes.

    `first_step_s` is an upper bound for the agents: see `benchmarks.agent_memory.agent`. `trained_in_64_mb` is the
    reason where it could not be tried, and None for a trainer of which it is not asked.
    """

    peak_rss_mb: float
    idle_rss_mb: float
    installed_mb: float
    first_step_s: float
    samples_per_s: float
    trained_in_64_mb: bool | str | None = None


def samples_per_second(train_seconds: Sequence[float]) -> float:
    """The median over rounds of `STEPS` steps each."""
    return STEPS * BATCH_SIZE / statistics.median(train_seconds)
