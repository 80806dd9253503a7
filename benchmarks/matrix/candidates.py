"""The files that a model can be exported to, and the choice among them. No I/O is here."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from benchmarks.latency.judgement import Flag
from benchmarks.latency.results import Ratio
from benchmarks.latency.sparse_kernels import SparseKernels
from benchmarks.latency.this_machine import Machine
from export.report import RunsOn, Sparsity

AS_FAST = 1.1
"""A file whose median latency is at most so many times the fastest one's is as fast: medians repeat within 10 %."""


class Model(StrEnum):
    """The models that a run's weights make, which give the same answers."""

    MASKED = "masked"
    """The run's network; what is pruned of it is zeros."""
    SLIMMED = "slimmed"
    """The same without the units that no output depends on: smaller tensors."""


class Candidate(msgspec.Struct, frozen=True):
    """A file of a `model`, verified on examples that did not calibrate it and measured on this machine. `path` is
    relative to `matrix.json`.

    `quality` is the matrix's metric; the loss where the task has none. `goodness` is the same, the larger the better.
    Both are None where no runtime here runs the file, and so are latencies (ms) and peak memory (MB). `bytes_zstd` is
    at level 19, `bytes_deflate` at level 9. `ratio` is the latency over the first file's. `degraded` and
    `merges_integers`: see `export.report.Exported`. `is_efficient`: no other file is at least as good, as fast and as
    small, and better in one of these (it is on the Pareto front).
    """

    model: Model
    format: str
    path: str
    bytes: int
    bytes_zstd: int
    bytes_deflate: int
    sha256: str
    sparsity: Sparsity
    quality: float | None
    goodness: float | None
    degraded: bool
    merges_integers: bool
    runs_on: tuple[RunsOn, ...]
    p50_ms: float | None
    p90_ms: float | None
    peak_memory_mb: float | None
    ratio: Ratio | None
    sparse_kernels: SparseKernels | None
    is_efficient: bool = False


class Refused(msgspec.Struct, frozen=True):
    """A file that is not there: of a combination that is known to fail, or that failed here."""

    model: Model
    format: str
    reason: str


class Recommendation(msgspec.Struct, frozen=True):
    path: str
    reason: str


class Matrix(msgspec.Struct, frozen=True):
    """`metric` is what `quality` means, `keras_quality` what the Keras model reaches. `parameters` are those of each
    model; `why_one_model` is the reason where there is one alone, else empty. `recommendation` is None where no file
    can be recommended. `flags` say what disturbed the measurement of latencies."""

    task: str
    run: str
    version: int
    metric: str
    keras_quality: float | None
    machine: Machine
    parameters: dict[Model, int]
    why_one_model: str
    candidates: tuple[Candidate, ...]
    refused: tuple[Refused, ...]
    recommendation: Recommendation | None
    flags: tuple[Flag, ...]


def mark_efficient(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The candidates, with those on the Pareto front of goodness, latency and compressed size marked."""
    return tuple(
        msgspec.structs.replace(
            each,
            is_efficient=_costs(each) is not None and not any(_dominates(other, each) for other in candidates),
        )
        for each in candidates
    )


def recommend(candidates: Sequence[Candidate], flags: Sequence[Flag] = ()) -> Recommendation | None:
    """The smallest of the files that are as fast as the fastest, among those as good as the Keras model."""
    good = [each for each in candidates if each.p50_ms is not None and not each.degraded and not each.merges_integers]
    if not good:
        return None
    fastest = min(each.p50_ms for each in good if each.p50_ms is not None)
    as_fast = [each for each in good if each.p50_ms is not None and each.p50_ms <= AS_FAST * fastest]
    best = min(as_fast, key=lambda each: (each.bytes_zstd, each.p50_ms, each.path))
    return Recommendation(best.path, _reason(best, len(good), len(as_fast), flags))


def _reason(best: Candidate, good: int, as_fast: int, flags: Sequence[Flag]) -> str:
    alike = f"{good} files are as good as the Keras model" if good > 1 else "it alone is as good as the Keras model"
    speed = (
        f"; {as_fast} of them are as fast as the fastest, and it is the smallest of these"
        if as_fast > 1
        else ("; it is the fastest of them" if good > 1 else "")
    )
    figures = f": {best.p50_ms:.3g} ms, {best.bytes_zstd / 1000:,.1f} kB compressed"
    doubt = "; the measurement was disturbed, so measure again" if flags else ""
    return f"{alike}{speed}{figures}{doubt}"


def _dominates(other: Candidate, one: Candidate) -> bool:
    costs, others = _costs(one), _costs(other)
    if costs is None or others is None:
        return False
    return others != costs and all(theirs <= ours for theirs, ours in zip(others, costs, strict=True))


def _costs(candidate: Candidate) -> tuple[float, float, int] | None:
    """What is to be small; None where it is not known."""
    if candidate.goodness is None or candidate.p50_ms is None:
        return None
    return (-candidate.goodness, candidate.p50_ms, candidate.bytes_zstd)
