"""The benchmark of structured pruning: what it halves, and that it measures it."""

from __future__ import annotations

import pytest

from benchmarks.pruning.speed import speedups


@pytest.mark.slow
def test_halves_are_smaller_and_their_speed_is_measured_in_turns() -> None:
    measured = speedups("CNN-108k", runs=20, steps=2)

    assert [row.measured for row in measured] == ["fp32", "int8", "training graph"]
    for row in measured:
        assert row.parameters == (108_618, 27_562)
        assert row.bytes is None or row.bytes[1] < 0.4 * row.bytes[0]
        assert row.low <= row.median <= row.high
