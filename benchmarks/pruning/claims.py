"""What the benchmark claims of its runs: means over the seeds that no recipe was chosen on."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.pruning.results import Run, Shrunk, Speedup

MOST_POINTS_LOST = {
    "90 %": 0.8,
    "95 %": 1.2,
    "half": 1.2,
    "half + 80 %": 1.6,
    "90 %, 120 rounds": 0.5,
}
_LEAST_TIMES_SMALLER = 27
"""The dense fp32 file over int8 of half + 80 %, both by zstd 19."""
_LEAST_SPEEDUP = {
    ("CNN-108k", "fp32"): 1.8,
    ("MobileNetV1-like", "fp32"): 2.7,
    ("MobileNetV1-like", "int8"): 1.9,
}
_LEAST_SEEDS = 3
_LEAST_STEP_SPEEDUP = {"CNN-108k": 1.7, "MobileNetV1-like": 2.3}
_LEAST_BEYOND_SAVED = 0.25
"""Of a round's memory beyond what the process held."""
_LEAST_PEAK_SAVED = {"MobileNetV1-like": 0.25}
"""Of the whole process: of CNN-108k's 80 MB the libraries alone take most."""


def claims_of(runs: Sequence[Run], measured: Sequence[Speedup], *, quick: bool) -> dict[str, bool | None]:
    """Each claim, and whether it holds; None if it was not tried: with --quick, or on too few seeds."""
    claims: dict[str, bool | None] = {}
    for name, most in MOST_POINTS_LOST.items():
        if own := untuned(runs, name):
            lost = statistics.mean(run.points_lost for run in own)
            holds = None if quick or len(own) < _LEAST_SEEDS else lost <= most
            claims[f"{name}: {lost:+.2f} points lost on {len(own)} seeds, at most {most}"] = holds
    half, small = untuned(runs, "half"), untuned(runs, "half from scratch")
    if half and small:
        gained = 100 * (_mean_accuracy(half) - _mean_accuracy(small))
        holds = None if quick or len(half) < _LEAST_SEEDS else gained >= 0
        claims[f"half: {gained:+.2f} points to the small network trained from scratch, at least 0"] = holds
    whole, both = untuned(runs, "dense"), untuned(runs, "half + 80 %")
    if whole and both:
        times = statistics.mean(run.bytes_tflite_compressed for run in whole) / statistics.mean(
            run.int8_bytes_tflite_compressed for run in both
        )
        claims[f"half + 80 %, int8: {times:.1f} times smaller, at least {_LEAST_TIMES_SMALLER}"] = (
            None if quick else times >= _LEAST_TIMES_SMALLER
        )
    for row in measured:
        least = _LEAST_SPEEDUP.get((row.network, row.measured))
        if least is not None:
            claims[f"{row.network}, {row.measured}: {row.median:.2f}x, at least {least}x"] = row.median >= least
    return claims


def claims_of_shrunk(smaller: Sequence[Shrunk]) -> dict[str, bool | None]:
    """What a federation whose network loses half of its units gains on its devices."""
    claims: dict[str, bool | None] = {}
    for row in smaller:
        least = _LEAST_STEP_SPEEDUP[row.network]
        claims[f"{row.network}, step of a federation: {row.speedup:.2f}x, at least {least}x"] = row.speedup >= least
        saved = {"a round's own memory": (row.peak_beyond_held_saved, _LEAST_BEYOND_SAVED)}
        if row.network in _LEAST_PEAK_SAVED:
            saved["the process's peak"] = (row.peak_saved, _LEAST_PEAK_SAVED[row.network])
        for what, (found, least) in saved.items():
            claims[f"{row.network}, {what}: {found:.0%} less, at least {least:.0%}"] = found >= least
    return claims


def untuned(runs: Sequence[Run], name: str) -> list[Run]:
    """The runs of a recipe on images with seeds that it was not chosen on."""
    return [run for run in runs if run.name == name and not run.tuned]


def _mean_accuracy(runs: Sequence[Run]) -> float:
    return statistics.mean(run.accuracy for run in runs)
