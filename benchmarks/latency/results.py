"""The results of a benchmark, as they are written to JSON, and the arithmetic on them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from benchmarks.latency.this_machine import Machine


class Latency(msgspec.Struct, frozen=True):
    """Of one inference, in ms. Percentiles interpolate linearly; `std` is that of a sample (n - 1)."""

    min: float
    p50: float
    p90: float
    p99: float
    mean: float
    std: float


class Ratio(msgspec.Struct, frozen=True):
    """Latency over the reference model's, block by block: the median, and the quartiles around it."""

    median: float
    low: float
    high: float


class Measured(msgspec.Struct, frozen=True):
    """A model that ran. `ratio` is None for the reference itself and where nothing is to be compared."""

    path: str
    bytes: int
    init_ms: float
    latency_ms: Latency
    peak_memory_mb: float
    ratio: Ratio | None


class Failed(msgspec.Struct, frozen=True):
    """A model that could not be loaded or run, and why."""

    path: str
    error: str


class Report(msgspec.Struct, frozen=True):
    """`models` are in the order they were given. `reference` is the first of them that ran, `runtime` its runtime."""

    machine: Machine
    runtime: str | None
    num_threads: int
    num_runs: int
    warmup_runs: int
    reference: str | None
    models: tuple[Measured | Failed, ...]

    @property
    def failures(self) -> list[Failed]:
        return [row for row in self.models if isinstance(row, Failed)]


Blocks = Sequence[Sequence[float]]
"""Latencies in ms, block by block; models that are compared had their turns in the same order of blocks."""


def summarise(blocks: Blocks) -> Latency:
    latencies = np.concatenate([np.asarray(block, np.float64) for block in blocks])
    p50, p90, p99 = (float(value) for value in np.percentile(latencies, (50, 90, 99)))
    spread = float(latencies.std(ddof=1)) if len(latencies) > 1 else 0.0
    return Latency(float(latencies.min()), p50, p90, p99, float(latencies.mean()), spread)


def compare(blocks: Blocks, reference: Blocks) -> Ratio:
    """The ratio of medians in each pair of blocks: what slows both models for a while cancels out."""
    ratios = [np.median(mine) / np.median(theirs) for mine, theirs in zip(blocks, reference, strict=True)]
    low, median, high = (float(value) for value in np.percentile(ratios, (25, 50, 75)))
    return Ratio(median, low, high)
