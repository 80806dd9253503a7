"""The choice among exported files, and the model card."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from aggregator.book import Spread
from benchmarks.latency.judgement import Disturbance, Flag
from benchmarks.matrix.candidates import Candidate, Model, mark_efficient, recommend
from benchmarks.matrix.card import Card, files_on_card, to_markdown
from export.report import RunsOn, Sparsity


def _candidate(
    path: str, quality: float | None = 0.9, p50_ms: float | None = 1.0, size: int = 1000, **changes: Any
) -> Candidate:
    row = Candidate(
        model=Model.MASKED,
        format=path,
        path=path,
        bytes=2 * size,
        bytes_zstd=size,
        bytes_deflate=size,
        sha256="0" * 64,
        sparsity=Sparsity(0.8, {}),
        quality=quality,
        goodness=quality,
        degraded=False,
        merges_integers=False,
        runs_on=(RunsOn("ai-edge-litert", "2.3.0", True, ""),),
        p50_ms=p50_ms,
        p90_ms=p50_ms,
        peak_memory_mb=50.0,
        ratio=None,
        sparse_kernels=None,
    )
    return msgspec.structs.replace(row, **changes)


def _efficient(*candidates: Candidate) -> list[str]:
    return [each.path for each in mark_efficient(candidates) if each.is_efficient]


def test_efficient_are_those_that_no_other_beats_in_everything() -> None:
    best, small, fast = _candidate("best", 0.95), _candidate("small", size=10), _candidate("fast", p50_ms=0.1)
    worse, lost = _candidate("worse", 0.94, 1.1, 1001), _candidate("lost", None, None, 1)
    assert _efficient(best, small, fast, worse, lost) == ["best", "small", "fast"]


def test_equal_files_are_both_efficient() -> None:
    assert _efficient(_candidate("a"), _candidate("b")) == ["a", "b"]


_figures = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=8)


@given(_figures)
def test_whatever_is_not_efficient_is_beaten_by_something_that_is(figures: list[tuple[int, int, int]]) -> None:
    marked = mark_efficient([_candidate(str(number), *row) for number, row in enumerate(figures)])
    front = [row for row, each in zip(figures, marked, strict=True) if each.is_efficient]
    assert front
    for row in figures:
        assert row in front or any(
            good[0] >= row[0] and good[1] <= row[1] and good[2] <= row[2] and good != row for good in front
        )


def test_the_smallest_of_the_fast_and_good_ones_is_recommended() -> None:
    found = recommend(
        [
            _candidate("fp32", p50_ms=2.0, size=900),
            _candidate("dynamic", p50_ms=1.0, size=400),
            _candidate("int8", p50_ms=1.05, size=300),
            _candidate("wrong", p50_ms=0.1, size=100, degraded=True),
            _candidate("merging", p50_ms=0.1, size=100, merges_integers=True),
            _candidate("lost", None, None, 1),
        ]
    )
    assert found is not None
    assert found.path == "int8"
    assert found.reason == (
        "3 files are as good as the Keras model; 2 of them are as fast as the fastest, and it is the smallest of "
        "these: 1.05 ms, 0.3 kB compressed"
    )


def test_a_disturbed_measurement_makes_the_recommendation_doubtful() -> None:
    found = recommend([_candidate("fp32")], [Flag(Disturbance.OTHERS, "hogs")])
    assert found is not None
    assert found.reason.endswith("the measurement was disturbed, so measure again")


def test_nothing_is_recommended_where_nothing_is_good_or_runs() -> None:
    assert recommend([_candidate("a", degraded=True), _candidate("b", None, None)]) is None


def test_the_card_tells_all_and_names_do_no_harm_in_it() -> None:
    card = Card(
        written=datetime(2026, 11, 26, tzinfo=UTC),
        fedprune="0.1.0",
        task="pic|tures\n# now",
        run="a-run",
        version=20,
        rounds=20,
        agents=4,
        parameters=108_618,
        parameters_by_model={Model.MASKED: 108_618, Model.SLIMMED: 27_562},
        removed_units={"dense|1": 64},
        sparsity=0.8,
        target_sparsity=0.8,
        sparsity_by_layer={"conv1/kernel": 0.5},
        weights_sha256="abc",
        metric="accuracy",
        quality=0.816,
        examples=9800,
        calibration_examples=200,
        spreads={"accuracy": Spread(4, 0.7, (0.75, 0.8, 0.85), 0.9, "agent-3")},
        machine="AMD EPYC, x86_64",
        recommended="int8.tflite",
        reason="it is the fastest",
        files=files_on_card([_candidate("int8.tflite")]),
        warnings=("something",),
    )
    text = to_markdown(card)
    for told in (
        "in 20 rounds by 4 agents",
        "accuracy: 0.816, on 9800 examples",
        "accuracy over 4 agents, in their last evaluation: worst 0.7, quartiles 0.75, 0.8 and 0.85, best 0.9.",
        "| conv1/kernel | 50.0% |",
        r"Units that no output depends on: 64 of dense\|1. Exported with 108,618 parameters masked, 27,562 parameters "
        "slimmed.",
        "**Recommended: int8.tflite.** it is the fastest.",
        "ai-edge-litert 2.3.0",
        "- something",
    ):
        assert told in text
    assert text.splitlines()[0] == r"# pic\|tures\# now, version 20"
