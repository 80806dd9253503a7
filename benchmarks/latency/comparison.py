"""Two benchmarks compared: the ratios of what both measured, and what makes them hard to compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks.latency.results import Measured, Ratio, Report, compare_unpaired
from fedprune.errors import ExportError


class Pair(msgspec.Struct, frozen=True):
    """A model on a number of threads, in both benchmarks: medians in ms, and the second one's over the first one's.

    `is_slower`: the second one takes more time, by more than is tolerated, and by the whole interval of the ratio.
    """

    name: str
    num_threads: int
    first_ms: float
    second_ms: float
    ratio: Ratio
    is_slower: bool


class Comparison(msgspec.Struct, frozen=True):
    """`differences` are lines on what was not the same; `missing` are models that only one of them measured."""

    pairs: tuple[Pair, ...]
    missing: tuple[str, ...]
    differences: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Like was compared with like, and nothing is slower."""
        return not self.differences and not self.missing and not any(pair.is_slower for pair in self.pairs)


def compare_reports(first: Report, second: Report, tolerance: float) -> Comparison:
    """Compare the models that have the same file name and number of threads. `tolerance` is a fraction of the latency.

    Raises:
        ExportError: no model is in both.
    """
    ours, theirs = _keyed(first), _keyed(second)
    common = [key for key in ours if key in theirs]
    if not common:
        raise ExportError("the two benchmarks have no model in common: models go by their file names")
    return Comparison(
        pairs=tuple(_pair(key, ours[key], theirs[key], tolerance) for key in common),
        missing=(
            *(
                f"{name} ({threads} threads)"
                for name, threads in dict.fromkeys([*ours, *theirs])
                if (name, threads) not in common
            ),
            *_namesakes(first, ours),
            *_namesakes(second, theirs),
        ),
        differences=(
            *_differing_settings(first, second),
            *_differing_files([(key[0], ours[key], theirs[key]) for key in common]),
            *_flags(first, second),
        ),
    )


_Key = tuple[str, int]


def _keyed(report: Report) -> dict[_Key, Measured]:
    """The rows by file name and number of threads; of a model that was given twice the first."""
    keyed: dict[_Key, Measured] = {}
    for row in report.measured:
        keyed.setdefault((Path(row.path).name, row.num_threads), row)
    return keyed


def _namesakes(report: Report, keyed: dict[_Key, Measured]) -> Iterator[str]:
    """The rows that another file of the same name stands for."""
    for row in report.measured:
        if row.path != keyed[Path(row.path).name, row.num_threads].path:
            yield f"{row.path} ({row.num_threads} threads), whose name another file has"


def _pair(key: _Key, first: Measured, second: Measured, tolerance: float) -> Pair:
    ratio = compare_unpaired(second.medians_ms, first.medians_ms)
    return Pair(*key, first.latency_ms.p50, second.latency_ms.p50, ratio, is_slower=ratio.low > 1 + tolerance)


def _differing_settings(first: Report, second: Report) -> Iterator[str]:
    for name in first.machine.__struct_fields__:
        ours, theirs = getattr(first.machine, name), getattr(second.machine, name)
        if ours != theirs:
            yield f"the machines differ: {name} {ours}, {theirs}"
    for name in ("runtime", "warmup_runs", "num_runs"):
        ours, theirs = getattr(first, name), getattr(second, name)
        if ours != theirs:
            yield f"{name} differs: {ours}, {theirs}"
    governors = first.conditions.before.governor, second.conditions.before.governor
    if governors[0] != governors[1]:
        yield f"the governors differ: {governors[0]}, {governors[1]}"


def _differing_files(rows: Sequence[tuple[str, Measured, Measured]]) -> Iterator[str]:
    for name, first, second in rows:
        if first.sha256 != second.sha256:
            yield f"the files {name} differ ({first.bytes:,} and {second.bytes:,} bytes)"
        if first.input_shapes != second.input_shapes:
            yield f"{name} was measured with inputs of other shapes"


def _flags(first: Report, second: Report) -> Iterator[str]:
    for which, report in (("first", first), ("second", second)):
        for flag in report.flags:
            yield f"the {which} was disturbed: {flag.told}"
