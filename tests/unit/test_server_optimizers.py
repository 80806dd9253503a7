"""Server optimizers: their steps, their state, and that runs go on with both from wherever they stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aggregator.rollback import roll_back_directory
from aggregator.server_optimizers import FedAdam, FedAvgM, ServerOptimizer, check_state, mask_state, server_step
from aggregator.settings import Aggregation
from fedprune.errors import StorageError
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable, Weights, weights_digest
from fedprune.task.checkpoints import Checkpoint, load_checkpoint
from tests.gateways import TASK_PLAN, Site, begin, submit_update

OPTIMIZERS = (FedAvgM(), FedAdam())
PLAN = replace(TASK_PLAN, rounds=4)
TABLE = TensorTable(
    (
        TensorSpec("kernel", (3, 4), "float32", TensorClass.PRUNABLE, "dense"),
        TensorSpec("bias", (4,), "float32", TensorClass.DENSE, "dense"),
        TensorSpec("mean", (4,), "float32", TensorClass.STATISTICS, "norm"),
        TensorSpec("variance", (4,), "float32", TensorClass.STATISTICS, "norm"),
    )
)


def drawn(name: str, limit: float = 1.0) -> Weights:
    return {s.name: Keyed(1, name, s.name).uniform(s.size, -limit, limit).reshape(s.shape) for s in TABLE}


def moved(before: Weights, delta: Weights) -> Weights:
    return {name: before[name] + delta[name] for name in before}


def test_fedavgm_adds_what_it_remembers_of_earlier_deltas() -> None:
    exact, delta = drawn("exact"), drawn("delta", 0.1)
    optimizer = FedAvgM(learning_rate=0.5, momentum=0.9)

    weights, state = server_step(optimizer, exact, moved(exact, delta), {}, {}, TABLE)
    again, _ = server_step(optimizer, weights, moved(weights, delta), state, {}, TABLE)

    for name in ("kernel", "bias"):
        np.testing.assert_allclose(weights[name], exact[name] + 0.5 * delta[name], atol=1e-6)
        np.testing.assert_allclose(again[name], weights[name] + 0.5 * 1.9 * delta[name], atol=1e-6)


def test_fedadam_is_algorithm_2_of_its_paper() -> None:
    exact, deltas = drawn("exact"), [drawn(f"delta {index}", 0.1) for index in range(3)]
    optimizer = FedAdam(learning_rate=0.1, beta_1=0.5, beta_2=0.75, tau=0.01)
    weights: Weights = exact
    state: Weights = {}
    mean = np.zeros((3, 4))
    square = np.full((3, 4), 0.01**2)
    expected = exact["kernel"].astype(np.float64)
    for delta in deltas:
        weights, state = server_step(optimizer, weights, moved(weights, delta), state, {}, TABLE)
        mean = 0.5 * mean + 0.5 * delta["kernel"]
        square = 0.75 * square + 0.25 * delta["kernel"].astype(np.float64) ** 2
        expected = expected + 0.1 * mean / (np.sqrt(square) + 0.01)

    np.testing.assert_allclose(weights["kernel"], expected, rtol=0, atol=1e-4)


def test_fedavgm_without_momentum_is_fedavg_to_the_bit() -> None:
    exact, merged = drawn("exact"), drawn("merged")

    weights, _ = server_step(FedAvgM(momentum=0.0), exact, merged, {}, {}, TABLE)

    assert weights_digest(weights) == weights_digest(merged)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_statistics_are_those_of_the_merge(optimizer: ServerOptimizer) -> None:
    merged = drawn("merged")

    weights, state = server_step(optimizer, drawn("exact"), merged, {}, {}, TABLE)

    assert [*weights] == [*merged]
    for name in ("mean", "variance"):
        np.testing.assert_array_equal(weights[name], merged[name])
    assert {key.partition("/")[2] for key in state} == {"kernel", "bias"}


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_what_is_pruned_has_no_momentum_and_does_not_come_back(optimizer: ServerOptimizer) -> None:
    exact, mask = drawn("exact"), {"kernel": drawn("mask")["kernel"] > 0}
    weights, state = server_step(optimizer, exact, moved(exact, drawn("delta", 0.1)), {}, {}, TABLE)
    pruned = dict(weights) | {"kernel": np.where(mask["kernel"], weights["kernel"], np.float32(0))}
    state = mask_state(state, mask)
    for key in state:
        assert not key.endswith("kernel") or not state[key][~mask["kernel"]].any()

    delta = drawn("next", 0.1)
    merged = moved(pruned, delta) | {"kernel": pruned["kernel"] + np.where(mask["kernel"], delta["kernel"], 0)}
    after, _ = server_step(optimizer, pruned, merged, state, mask, TABLE)

    assert not after["kernel"][~mask["kernel"]].any()
    assert after["kernel"][mask["kernel"]].all()


def test_the_state_of_another_optimizer_is_refused() -> None:
    _, state = server_step(FedAdam(), drawn("exact"), drawn("merged"), {}, {}, TABLE)

    check_state(FedAdam(), state, TABLE)
    check_state(FedAvgM(), {}, TABLE)
    for other in (FedAvgM(), None):
        with pytest.raises(StorageError, match=r"another server optimizer; set aggregation\.optimizer"):
            check_state(other, state, TABLE)


# Runs


def digest(state: Weights) -> str:
    return weights_digest(dict(sorted(state.items())))


def last(site: Site) -> Checkpoint:
    return load_checkpoint(site.checkpoints, site.book.next_round())


def run(path: Path, optimizer: ServerOptimizer, *, stops: bool) -> Site:
    """A run of four rounds; one that stops is started anew in each of them, once an update is accepted."""
    site, aggregation = Site(path), Aggregation(optimizer=optimizer)
    runner = begin(site, plan=PLAN, aggregation=aggregation)
    for _ in range(PLAN.rounds):
        submit_update(site, runner, "pi-0")
        if stops:
            site.book.close()
            runner = begin(site, plan=PLAN, aggregation=aggregation)
        submit_update(site, runner, "pi-1")
    assert runner.is_done
    return site


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_a_run_that_is_stopped_again_and_again_ends_with_the_same_bits(
    tmp_path: Path, optimizer: ServerOptimizer
) -> None:
    whole = last(run(tmp_path / "whole", optimizer, stops=False))
    stopped = last(run(tmp_path / "stopped", optimizer, stops=True))

    assert weights_digest(stopped.exact) == weights_digest(whole.exact)
    assert digest(stopped.optimizer_state) == digest(whole.optimizer_state)
    assert whole.optimizer_state
    for key, array in whole.optimizer_state.items():
        pruned = ~whole.mask.get(key.partition("/")[2], np.ones(array.shape, np.bool_))
        assert not array[pruned].any()


def test_a_run_rolled_back_goes_on_with_the_state_that_it_had_then(tmp_path: Path) -> None:
    site = run(tmp_path / "run", FedAvgM(), stops=False)
    then = load_checkpoint(site.checkpoints, 2)
    site.book.close()

    roll_back_directory(site.path, 2)

    site.start(PLAN, aggregation=Aggregation(optimizer=FedAvgM()))
    assert digest(last(site).optimizer_state) == digest(then.optimizer_state)
