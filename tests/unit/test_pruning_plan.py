"""The benchmark of pruning: the order of its runs, and a result that it goes on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.pruning.claims import claims_of
from benchmarks.pruning.recipes import RECIPES
from benchmarks.pruning.records import Result, dense_accuracy, earlier, plan, save
from benchmarks.pruning.results import Run
from fedprune.errors import StorageError


def run(recipe: str, seed: int, accuracy: float, dense: float = 0.85) -> Run:
    return Run(
        name=recipe, task="images", recipe=recipe, seed=seed, tuned=seed < 3, source="made", rounds=60, sparsity=0.9,
        units_removed=0.0, accuracy=accuracy, dense_accuracy=dense, parameters=10, bytes_tflite=400,
        bytes_tflite_compressed=300, p50_ms=None, int8_accuracy=None, int8_bytes_tflite=100,
        int8_bytes_tflite_compressed=10, int8_p50_ms=None, train_step_ms_first=5.0, train_step_ms_last=5.0, bytes_up=1,
        bytes_down=1,
    )  # fmt: skip


@pytest.mark.parametrize("quick", [True, False])
def test_dense_runs_come_before_those_that_are_compared_with_them(quick: bool) -> None:
    done: set[tuple[str, str, int]] = set()
    for task, name, seed in plan((3, 4, 5, 1, 2), quick=quick):
        dense = RECIPES[name].dense
        assert name == dense or (task, dense, seed) in done
        done.add((task, name, seed))
    assert len(done) == len(list(plan((3, 4, 5, 1, 2), quick=quick)))


def test_a_run_is_compared_with_the_dense_one_of_its_seed_and_length() -> None:
    result = Result(False, (run("dense", 3, 0.84), run("dense", 4, 0.86), run("dense, 120 rounds", 3, 0.87)))
    assert dense_accuracy(result, "images", "90 %", 4) == 0.86
    assert dense_accuracy(result, "images", "90 %, 120 rounds", 3) == 0.87
    assert dense_accuracy(result, "images", "dense", 3) is None


def test_a_result_is_gone_on_with_and_another_is_refused(tmp_path: Path) -> None:
    target, result = tmp_path / "pruning.json", Result(False, (run("dense", 3, 0.84),))
    save(result, target)

    assert earlier(target, quick=False) == result
    with pytest.raises(StorageError, match="without --quick"):
        earlier(target, quick=True)
    target.write_text('{"rows": 3}')
    with pytest.raises(StorageError, match="no result of this benchmark"):
        earlier(target, quick=False)


def test_claims_are_settled_by_seeds_that_nothing_was_tuned_on() -> None:
    tuned = [run("90 %", seed, 0.6) for seed in (1, 2)]
    good = [run("90 %", seed, 0.845) for seed in (3, 4, 5)]
    assert claims_of(tuned, (), quick=False) == {}
    assert list(claims_of([*tuned, *good], (), quick=False).values()) == [True]
    assert list(claims_of([*tuned, *good[:2]], (), quick=False).values()) == [None]
    assert list(claims_of([run("90 %", seed, 0.83) for seed in (3, 4, 5)], (), quick=False).values()) == [False]
