"""A regression of raw columns whose statistics are gathered is as good as one of pooled data."""

from __future__ import annotations

from benchmarks.raw_columns import ALLOWED, compare


def test_nobody_scales_anything_and_the_error_is_that_of_pooled_data() -> None:
    result = compare("rooms", seed=1, rounds=20)

    assert result.ratio <= ALLOWED
    assert result.raw is None or result.federated < result.raw / 2
