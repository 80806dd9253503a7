"""Federated rounds with an agent's own mask continue TF-MOT's training as if it had never been interrupted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from keras_bundles import bundle_of, convolutional, keras_optimizer, learnable, perceptron, seeded, weights_of

from edge_agent.trainers import Trained, Work
from edge_agent.trainers.batches import draw_batches
from edge_agent.trainers.keras import KerasTrainer
from fedprune.bundle import Adam, Bundle, MaskPolicy, Sgd
from fedprune.data import Dataset
from fedprune.masks import Allocation, apply_mask, full_mask, mask_sparsity, score_mask
from fedprune.randomness import Keyed
from fedprune.schedules import ConstantSparsity, PolynomialDecay, Schedule
from fedprune.tensorflow_stack import keras, tfmot
from fedprune.tensors import Array, Mask, TensorTable, Weights, sparsity

ROUNDS, STEPS, BATCH, EXAMPLES = 5, 6, 16, 70
TOLERANCE = 1e-6

# Rounds are 6 steps long: masks are updated at steps 2, 6, 10, … (inside rounds and at their last steps) or at
# 1, 4, 7, … (on the first step of each round as well).
INSIDE = {"begin_step": 2, "frequency": 4}
ON_FIRST_STEP = {"begin_step": 1, "frequency": 3}


@dataclass(frozen=True)
class Case:
    model: Callable[[], Any]
    optimizer: Sgd | Adam
    schedule: Schedule


def polynomial(window: dict[str, int]) -> Schedule:
    return PolynomialDecay(**window, end_step=22, initial_sparsity=0.2, target_sparsity=0.8)


def constant(window: dict[str, int]) -> Schedule:
    return ConstantSparsity(**window, target_sparsity=0.6)


CASES = {
    "polynomial, momentum, inside": Case(perceptron, Sgd(0.1, 0.9), polynomial(INSIDE)),
    "polynomial, momentum, on first step": Case(perceptron, Sgd(0.1, 0.9), polynomial(ON_FIRST_STEP)),
    "polynomial, adam, on first step": Case(convolutional, Adam(0.01), polynomial(ON_FIRST_STEP)),
    "constant, nesterov, on first step": Case(convolutional, Sgd(0.05, 0.9, True), constant(ON_FIRST_STEP)),
    "constant, adam, inside": Case(convolutional, Adam(0.01), constant(INSIDE)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_rounds_equal_uninterrupted_training(case: Case) -> None:
    data, model = learnable(EXAMPLES), seeded(case.model())
    bundle = bundle_of(
        model, case.schedule, mask=MaskPolicy.OWN, optimizer=case.optimizer, steps_per_round=STEPS, batch_size=BATCH
    )
    initial = weights_of(model)

    federated = federate(bundle, initial, data)
    weights, mask = train_uninterrupted(model, case, data)

    assert list(federated.weights) == list(weights)
    for name, expected in weights.items():
        np.testing.assert_allclose(federated.weights[name], expected, rtol=0, atol=TOLERANCE, err_msg=name)
    for name, kept in mask.items():
        np.testing.assert_array_equal(federated.mask[name], kept, err_msg=name)
    reached = case.schedule.sparsity_in_force(ROUNDS * STEPS)
    assert sparsity(federated.weights, bundle.task.table) == pytest.approx(reached, abs=0.01)
    assert mask_sparsity(federated.mask) == sparsity(federated.weights, bundle.task.table)


def federate(bundle: Bundle, initial: Weights, data: Dataset) -> Trained:
    """Rounds of one agent, with a gateway that merges its model exactly and prunes again to the schedule."""
    trainer, table = KerasTrainer(bundle, threads=1), bundle.task.table
    work = Work(initial, full_mask(table), 0, None, round_key(0))
    for number in range(ROUNDS):
        trained = trainer.train(work, data)
        steps_done = (number + 1) * STEPS
        merged = merge(work.weights, trained)
        mask = prune_again(merged, table, bundle.task.pruning.schedule, steps_done)
        work = Work(apply_mask(merged, mask), mask, steps_done, trained.slots, round_key(number + 1))
    return trained


def merge(base: Weights, trained: Trained) -> dict[str, Array]:
    """One agent's delta on the wire as float32, and its merge on the gateway in 64-bit fixed point."""
    decoded = apply_mask({name: array + (trained.weights[name] - array) for name, array in base.items()}, trained.mask)
    fixed = {name: np.round(array.astype(np.float64) * 2.0**32).astype(np.int64) for name, array in decoded.items()}
    return {name: (array / 2.0**32).astype(np.float32) for name, array in fixed.items()}


def prune_again(weights: Weights, table: TensorTable, schedule: Schedule, steps_done: int) -> Mask:
    return score_mask(weights, table, schedule.sparsity_in_force(steps_done), Allocation.UNIFORM)


def train_uninterrupted(model: Any, case: Case, data: Dataset) -> tuple[Weights, Mask]:
    """Plain Keras and TF-MOT, written as their guide has it, over the same batches in one go."""
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=tfmot_schedule(case.schedule))
    wrapped.compile(keras_optimizer(case.optimizer), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    callback = tfmot.sparsity.keras.UpdatePruningStep()
    callback.set_model(wrapped)
    callback.on_train_begin()
    for number in range(ROUNDS):
        for batch in draw_batches(round_key(number), len(data), STEPS, BATCH):
            wrapped.train_on_batch(data.x[batch], data.y[batch])
    callback.on_epoch_end(0)
    mask = {
        weight.name: kept.numpy() != 0.0 for layer in callback.prunable_layers for weight, kept, _ in layer.pruning_vars
    }
    return weights_of(tfmot.sparsity.keras.strip_pruning(wrapped)), mask


def round_key(number: int) -> Keyed:
    return Keyed(1, number, "training")


def tfmot_schedule(schedule: Schedule) -> Any:
    window = (schedule.begin_step, schedule.end_step)
    if isinstance(schedule, PolynomialDecay):
        return tfmot.sparsity.keras.PolynomialDecay(
            schedule.initial_sparsity, schedule.target_sparsity, *window, frequency=schedule.frequency
        )
    return tfmot.sparsity.keras.ConstantSparsity(schedule.target_sparsity, *window, frequency=schedule.frequency)
