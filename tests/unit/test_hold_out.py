"""Examples that an agent holds out: the same in every round, and never trained on."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.evaluating import hold_out
from fedprune.data import Dataset

DATA = Dataset(np.arange(40, dtype=np.float32).reshape(40, 1), np.arange(40, dtype=np.int64))


def aside(share: float, seed: int = 1, agent: str = "pi-1") -> list[int]:
    _, held_out = hold_out(DATA, share, seed, agent)
    return [] if held_out is None else held_out.y.tolist()


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.02, 0), (0.025, 1), (0.2, 8), (0.5, 20)])
def test_every_example_is_trained_on_or_held_out(share: float, count: int) -> None:
    rest, held_out = hold_out(DATA, share, 1, "pi-1")

    held = [] if held_out is None else held_out.y.tolist()
    assert len(held) == count
    assert sorted([*rest.y.tolist(), *held]) == DATA.y.tolist()
    assert (rest.x[:, 0] == rest.y).all()


def test_it_is_the_agents_own_and_the_same_each_time() -> None:
    assert aside(0.2) == aside(0.2) == [1, 3, 4, 7, 16, 18, 19, 26]
    assert aside(0.2) != aside(0.2, agent="pi-2")
    assert aside(0.2) != aside(0.2, seed=2)


def test_a_larger_share_holds_out_the_same_ones_and_others() -> None:
    assert set(aside(0.2)) < set(aside(0.4))


def test_a_single_example_is_trained_on() -> None:
    one = DATA.take(np.array([0]))

    assert hold_out(one, 0.5, 1, "pi-1") == (one, None)
