"""The results of a benchmark, as they are written to JSON, and the arithmetic on them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.latency.conditions import Conditions
from benchmarks.latency.judgement import Flag
from benchmarks.latency.shapes import Shape
from benchmarks.latency.sparse_kernels import SparseKernels
from benchmarks.latency.this_machine import Machine

MOST_MEDIANS = 100
"""Medians of blocks that a report keeps of each row: of more blocks, neighbours are taken together."""
_RESAMPLES = 2000
_CONFIDENCE = (2.5, 97.5)
"""Percentiles of the resampled medians: an interval of 95 %."""


class Latency(msgspec.Struct, frozen=True):
    """Of one inference, in ms. Percentiles interpolate linearly; `std` is that of a sample (n - 1)."""

    min: float
    p50: float
    p90: float
    p99: float
    mean: float
    std: float


class Ratio(msgspec.Struct, frozen=True):
    """A ratio of latencies: its median over blocks, and the 95 % interval of that median."""

    median: float
    low: float
    high: float


class Measured(msgspec.Struct, frozen=True, tag_field="outcome", tag="measured"):
    """A model that ran, with inputs of `input_shapes`, on `num_threads` threads.

    `medians_ms` are those of its blocks in order. `ratio` is its latency over that of the first model on as many
    threads, `scaling` over its own on the first number of threads; None where nothing is to be compared.
    """

    path: str
    num_threads: int
    bytes: int
    sha256: str
    input_shapes: tuple[Shape, ...]
    init_ms: float
    latency_ms: Latency
    medians_ms: Annotated[tuple[Annotated[float, msgspec.Meta(gt=0)], ...], msgspec.Meta(min_length=1)]
    peak_memory_mb: float
    ratio: Ratio | None
    scaling: Ratio | None
    sparse_kernels: SparseKernels | None


class Failed(msgspec.Struct, frozen=True, tag_field="outcome", tag="failed"):
    """A model that could not be loaded or run, and why."""

    path: str
    num_threads: int
    error: str


class Report(msgspec.Struct, frozen=True):
    """`time` is when it began (UTC). `models` are in the order they were given, each with each number of threads.

    `reference` is the first of them that ran, `runtime` its runtime. `flags` say what disturbed the measurement.
    """

    time: datetime
    machine: Machine
    runtime: str | None
    num_threads: tuple[int, ...]
    num_runs: int
    warmup_runs: int
    reference: str | None
    models: tuple[Measured | Failed, ...]
    conditions: Conditions
    flags: tuple[Flag, ...]

    @property
    def failures(self) -> list[Failed]:
        return [row for row in self.models if isinstance(row, Failed)]

    @property
    def measured(self) -> list[Measured]:
        return [row for row in self.models if isinstance(row, Measured)]


Blocks = Sequence[Sequence[float]]
"""Latencies in ms, block by block; models that are compared had their turns in the same order of blocks."""


def summarise(blocks: Blocks) -> Latency:
    latencies = np.concatenate([np.asarray(block, np.float64) for block in blocks])
    p50, p90, p99 = (float(value) for value in np.percentile(latencies, (50, 90, 99)))
    spread = float(latencies.std(ddof=1)) if len(latencies) > 1 else 0.0
    return Latency(float(latencies.min()), p50, p90, p99, float(latencies.mean()), spread)


def medians(blocks: Blocks) -> tuple[float, ...]:
    """The median of each block in ms, or of neighbouring blocks together where there are more than `MOST_MEDIANS`."""
    parts = np.array_split(np.arange(len(blocks)), min(len(blocks), MOST_MEDIANS))
    return tuple(float(np.median(np.concatenate([blocks[index] for index in part]))) for part in parts)


def compare(blocks: Blocks, reference: Blocks) -> Ratio:
    """The ratio of medians in each pair of blocks, so that what slows both models for a while cancels out; the interval
    is by bootstrap over the pairs (Efron and Tibshirani 1993, chapter 13)."""
    pairs = zip(blocks, reference, strict=True)
    ratios = np.array([np.median(mine) / np.median(theirs) for mine, theirs in pairs])
    return _interval(float(np.median(ratios)), np.median(_resampled(ratios, 0), axis=1))


def compare_unpaired(medians_ms: Sequence[float], reference_ms: Sequence[float]) -> Ratio:
    """The ratio of the medians of two benchmarks' blocks, with its interval by bootstrap over the blocks of each."""
    mine, theirs = np.asarray(medians_ms, np.float64), np.asarray(reference_ms, np.float64)
    ratios = np.median(_resampled(mine, 0), axis=1) / np.median(_resampled(theirs, 1), axis=1)
    return _interval(float(np.median(mine) / np.median(theirs)), ratios)


def _resampled(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """`[_RESAMPLES, len(values)]`, drawn with replacement, the same each time."""
    drawn = np.random.default_rng(seed).integers(0, len(values), (_RESAMPLES, len(values)))
    taken: NDArray[np.float64] = values[drawn]
    return taken


def _interval(median: float, resampled: NDArray[np.float64]) -> Ratio:
    low, high = (float(value) for value in np.percentile(resampled, _CONFIDENCE))
    return Ratio(median, min(low, median), max(high, median))
