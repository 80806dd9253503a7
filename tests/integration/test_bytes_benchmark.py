"""The benchmark of bytes: a federation in one process, with the agents' own rounds and the gateway's own merging."""

from __future__ import annotations

from pathlib import Path

from benchmarks.bytes_to_accuracy.federation import learn
from benchmarks.bytes_to_accuracy.problems import PROBLEMS, USUAL_PROBLEM
from benchmarks.bytes_to_accuracy.recipes import DENSE, RECIPES
from benchmarks.bytes_to_accuracy.records import Arrangement

_DENSE_BYTES = 4 * 108_618

ONE_AGENT = Arrangement("dirichlet:0.5", 1 / USUAL_PROBLEM.agents)


def test_a_frugal_round_takes_a_hundredth_of_a_dense_ones_bytes_each_way(tmp_path: Path) -> None:
    (frugal,) = (recipe for recipe in RECIPES if recipe.name == "frugal-90")

    learned = learn(frugal, ONE_AGENT, 1, 3, tmp_path)

    assert len(learned.accuracies) == 3
    assert "task" in learned.down[0]
    assert "model" not in learned.down[0], "a drawn start is not sent"
    assert 0 < sum(up["update"] for up in learned.up) < 3 * _DENSE_BYTES / 100
    assert 0 < sum(down["model"] for down in learned.down) < 3 * _DENSE_BYTES / 100
    assert all(up["control"] + down["control"] > 0 for up, down in zip(learned.up, learned.down, strict=True))


def test_a_dense_round_takes_the_whole_model_each_way(tmp_path: Path) -> None:
    learned = learn(DENSE, ONE_AGENT, 1, 2, tmp_path)

    assert _DENSE_BYTES < learned.up[1]["update"] < 1.01 * _DENSE_BYTES
    assert _DENSE_BYTES < learned.down[1]["model"] < 1.01 * _DENSE_BYTES
    assert learned.sparsity < 0.01


def test_a_problem_of_windows_is_learned_too_without_statistics_that_travel_whole(tmp_path: Path) -> None:
    (frugal,) = (recipe for recipe in RECIPES if recipe.name == "frugal-80")
    windows = PROBLEMS["windows"]

    learned = learn(frugal, Arrangement(*windows.partitions, 1 / windows.agents, windows.name), 1, 2, tmp_path)

    assert sum(up["update"] for up in learned.up) < 2 * 1500
