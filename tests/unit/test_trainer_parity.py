"""What the benchmark of the two trainers makes of its pairs."""

from __future__ import annotations

import click
import pytest

from benchmarks.demo.rerun import parse_seeds
from benchmarks.trainer_parity import Pair, compare


def test_the_interval_is_the_paired_t_interval() -> None:
    """Differences of 1, 2 and 3 points: mean 2, standard error 1/sqrt 3, and t(0.975, 2) = 4.3027 from any table."""
    parity = compare([Pair(seed, "any data", 0.8 + seed / 100, 0.8, 0.0, 0.0) for seed in (1, 2, 3)])

    assert parity.difference_points == pytest.approx(2.0)
    assert parity.interval_points == pytest.approx((2.0 - 4.3027 / 3**0.5, 2.0 + 4.3027 / 3**0.5), abs=1e-3)


def test_seeds_are_different_whole_numbers() -> None:
    assert parse_seeds("3,1", least=2) == (3, 1)
    for text in ("1", "1,1", "1,x", "1,-2", ""):
        with pytest.raises(click.BadParameter, match="give"):
            parse_seeds(text, least=2)
