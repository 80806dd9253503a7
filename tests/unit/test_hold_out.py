"""Examples that an agent holds out: the same in every round, and never trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.evaluating import hold_out
from fedprune.data import Dataset, load_npz
from fedprune.data.dataset import Provenance
from fedprune.data.hold_out import HoldOutBy
from fedprune.errors import DataError

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


def recorded(*lengths: int, overlap: int) -> Dataset:
    """Windows of recordings of these lengths, each of a person of its own."""
    stretches = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return Dataset(DATA.x[: len(stretches)], DATA.y[: len(stretches)]).of(Provenance(stretches, stretches, overlap))


def split(data: Dataset, share: float, by: HoldOutBy | None = None) -> tuple[list[int], list[int]]:
    rest, held_out = hold_out(data, share, 1, "pi-1", by)
    return rest.y.tolist(), [] if held_out is None else held_out.y.tolist()


@pytest.mark.parametrize("overlap", [1, 3])
def test_windows_that_overlap_held_out_ones_are_not_trained_on(overlap: int) -> None:
    rest, held = split(recorded(20, 20, overlap=overlap), 0.25)
    assert held == [15, 16, 17, 18, 19, 35, 36, 37, 38, 39]
    assert rest == [*range(15 - overlap), *range(20, 35 - overlap)]


def test_recordings_that_are_too_short_to_be_cut_are_held_out_whole() -> None:
    rest, held = split(recorded(*[4] * 10, overlap=3), 0.2)
    assert len(held) == 8
    assert len(rest) == 32
    assert all(number // 4 * 4 in held for number in held)


def test_windows_that_do_not_overlap_are_drawn_one_by_one_unless_the_task_says_by_time() -> None:
    data = recorded(20, 20, overlap=0)
    assert split(data, 0.25)[1] == split(Dataset(DATA.x, DATA.y), 0.25)[1]
    assert split(data, 0.25, "time") == ([*range(15), *range(20, 35)], [*range(15, 20), *range(35, 40)])
    assert split(Dataset(DATA.x, DATA.y), 0.25, "time")[1] == [*range(30, 40)]


def test_a_group_is_trained_on_or_held_out() -> None:
    rest, held = split(recorded(*[8] * 5, overlap=2), 0.2, "group")
    assert len(held) == 8
    assert {number // 8 for number in held}.isdisjoint({number // 8 for number in rest})
    assert sorted([*rest, *held]) == DATA.y.tolist()


def test_a_single_group_is_trained_on(caplog: pytest.LogCaptureFixture) -> None:
    assert split(recorded(40, overlap=2), 0.2, "group") == (DATA.y.tolist(), [])
    assert "all examples are of one group" in caplog.text


def test_without_groups_nothing_can_be_held_out_by_them() -> None:
    with pytest.raises(DataError, match=r"nothing tells groups apart here; name their column in data\.group"):
        split(DATA, 0.2, "group")


@pytest.mark.parametrize("by", ["time", "group"])
def test_groups_and_stretches_may_be_told_as_a_column(by: HoldOutBy, tmp_path: Path) -> None:
    """As data frames give them; by time it had held out the first example, which all others overlap."""
    told = np.repeat(np.arange(4), 10)
    parts = []
    for shape in ((40,), (40, 1)):
        arrays: dict[str, Any] = {
            "stretch": told.reshape(shape),
            "group": told.reshape(shape),
            "overlap": np.array([2]),
        }
        np.savez(tmp_path / "told.npz", x=DATA.x, y=DATA.y, **arrays)
        rest, held_out = hold_out(load_npz(tmp_path / "told.npz"), 0.25, 1, "pi-1", by)
        assert held_out is not None
        parts.append((rest.labels["y"][:].tolist(), held_out.labels["y"][:].tolist()))

    assert parts[0] == parts[1]
    assert len(parts[0][1]) in (8, 10)
