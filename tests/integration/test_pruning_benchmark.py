"""The benchmark of structured pruning: what it halves, and that it measures it."""

from __future__ import annotations

import pytest

from benchmarks.pruning.backward import backward_costs, pruned_gradients
from benchmarks.pruning.speed import speedups


@pytest.mark.slow
def test_halves_are_smaller_and_their_speed_is_measured_in_turns() -> None:
    measured = speedups("CNN-108k", runs=20, steps=2)

    assert [row.measured for row in measured] == ["fp32", "int8", "training graph"]
    for row in measured:
        assert row.parameters == (108_618, 27_562)
        assert row.bytes is None or row.bytes[1] < 0.4 * row.bytes[0]
        assert row.low <= row.median <= row.high


@pytest.mark.slow
def test_a_step_without_some_gradients_takes_turns_with_the_whole_one() -> None:
    measured = [*backward_costs("CNN-108k", steps=2), *pruned_gradients(steps=2)]

    assert len(measured) == 3 + 2 * 3
    for row in measured:
        assert min(row.whole_ms, row.less_ms) > 0
        assert row.low <= row.median <= row.high
