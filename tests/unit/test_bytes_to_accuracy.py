"""The benchmark of bytes: what it records adds up, and what it has recorded it does not make again."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.agent_memory.environments import Environment
from benchmarks.bytes_to_accuracy.flower_learning import can_learn, check_environment
from benchmarks.bytes_to_accuracy.picture import draw
from benchmarks.bytes_to_accuracy.problems import PROBLEMS, arrangement_of
from benchmarks.bytes_to_accuracy.recipes import RECIPES
from benchmarks.bytes_to_accuracy.records import Arrangement, Flower, Journal, Run, bytes_to, target_of
from benchmarks.bytes_to_accuracy.table import ratio_to_target
from benchmarks.demo.command import demo
from fedprune.codecs import parse_codec, parse_model_codec
from fedprune.errors import ConfigurationError, StorageError
from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable

USUAL = Arrangement("dirichlet:0.5", 1.0)
TABLE = TensorTable((TensorSpec("kernel", (800, 128), "float32", TensorClass.PRUNABLE, "dense"),))


def run(name: str = "dense", seed: int = 11, to_target: int | None = 300) -> Run:
    return Run(
        name=name, seed=seed, tuned=False, partition=USUAL.partition, participation=USUAL.participation, rounds=3,
        accuracy_final=0.8, sparsity=0.9, bytes_up={"update": 100, "control": 50}, bytes_down={"model": 150},
        bytes_total=300, bytes_to_target=to_target, target=0.79, accuracies=(0.7, 0.8, 0.8),
        bytes_by_round=(100, 100, 100), commit="0123456789ab",
    )  # fmt: skip


def test_the_target_is_half_a_point_below_the_best_mean_of_five_rounds() -> None:
    assert target_of([0.9, 0.1, 0.8, 0.8, 0.8, 0.8, 0.8, 0.5]) == pytest.approx(0.795)


def test_bytes_count_until_the_mean_of_five_rounds_is_at_the_target_for_the_first_time() -> None:
    accuracies = [0.9, 0.9, 0.9, 0.9, 0.4, 0.9, 0.9, 0.1]

    assert bytes_to(0.8, accuracies, [10] * 8) == 50
    assert bytes_to(0.81, accuracies, [10] * 8) is None


def test_a_run_that_never_reaches_the_target_has_no_ratio() -> None:
    assert ratio_to_target(run("frugal", to_target=3), run()) == 100
    assert ratio_to_target(run("frugal", to_target=None), run()) is None


def test_a_run_that_was_recorded_is_found_again(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    Journal(file).add(run(seed=11))
    Journal(file).add(run(seed=12))

    journal = Journal(file)

    assert [each.seed for each in journal.runs] == [11, 12]
    assert journal.find("dense", 12, 3, USUAL) == run(seed=12)
    assert journal.find("dense", 13, 3, USUAL) is None
    assert journal.find("dense", 12, 6, USUAL) is None
    assert journal.find("dense", 12, 3, Arrangement("iid", 1.0)) is None


def test_what_flower_learned_is_found_again_beside_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    Journal(file).add_flower(Flower("1.42.0", bytes_up=485_430, bytes_down=448_462))
    Journal(file).add_flower_run(run("Flower"))

    journal = Journal(file)

    assert journal.find("Flower", 11, 3, USUAL) == run("Flower")
    assert journal.flower == Flower("1.42.0", 485_430, 448_462, (run("Flower"),))
    assert not journal.runs


def test_an_environment_without_the_simulation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lib/python3.11/site-packages/flwr").mkdir(parents=True)

    with pytest.raises(ConfigurationError, match=r"lacks ray and tensorflow; install flwr\[simulation\]"):
        check_environment(Environment(tmp_path))


def test_flower_learns_what_its_app_knows() -> None:
    assert can_learn(USUAL)
    assert can_learn(Arrangement("iid", 1.0))
    assert not can_learn(Arrangement(USUAL.partition, 0.3))
    assert not can_learn(Arrangement("person", 1.0, "windows"))


def test_a_file_of_something_else_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text("{}")

    with pytest.raises(StorageError, match="name another file"):
        Journal(file)


def test_runs_of_another_problem_are_others(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "results.json")
    journal.add(run())

    assert journal.find("dense", 11, 3, Arrangement(USUAL.partition, USUAL.participation, "cnn-1m")) is None


def test_recipes_have_names_of_their_own_and_chains_that_make_sense() -> None:
    assert len({recipe.name for recipe in RECIPES}) == len(RECIPES)
    for recipe in RECIPES:
        update, model = recipe.settings.codec.chains(TABLE)
        assert parse_codec(update)
        assert parse_model_codec(model)


def test_a_problem_is_shared_out_in_its_own_ways_alone() -> None:
    with pytest.raises(ConfigurationError, match="windows has person"):
        arrangement_of(PROBLEMS["windows"], "iid", 1.0)


def test_the_picture_is_a_png() -> None:
    assert draw([run(), run("frugal")]).startswith(b"\x89PNG")


def test_a_demo_takes_a_preset_or_a_chain() -> None:
    refused = CliRunner().invoke(demo, ["--preset", "frugal", "--codec", "mask | fp32"])

    assert refused.exit_code == 2
    assert "leave --codec out" in refused.output
