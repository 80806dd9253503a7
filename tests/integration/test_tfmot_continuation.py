"""Federated rounds with an agent's own mask continue TF-MOT's training as if it had never been interrupted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from keras_bundles import bundle_of, convolutional, keras_optimizer, learnable, mobile, perceptron, seeded, weights_of

from aggregator.global_model import new_model
from aggregator.merging import Aggregate, AggregateResult
from edge_agent.trainers import Trainer, Work
from edge_agent.trainers.batches import draw_batches
from edge_agent.trainers.choice import TrainerName, make_trainer
from edge_agent.updates import prepare_update, take_delta
from fedprune.codecs import Key, Values, decode_model, decode_update, parse_codec
from fedprune.data import Dataset
from fedprune.keras.stack import keras, tfmot
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Mask, Weights, sparsity
from fedprune.pruning.masks import full_mask, mask_sparsity
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity, PolynomialDecay, Schedule
from fedprune.task.bundle import Bundle
from fedprune.task.checkpoints import Checkpoint
from fedprune.task.training import Adam, Sgd
from tests.closeness import assert_close

ROUNDS, STEPS, BATCH, EXAMPLES = 5, 6, 16, 70
TOLERANCE: dict[TrainerName, float] = {"keras": 1e-5, "litert": 2e-5}

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
    "constant, momentum, depthwise-separable": Case(mobile, Sgd(0.05, 0.9), constant(INSIDE)),
    "constant, adam, inside": Case(convolutional, Adam(0.01), constant(INSIDE)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_rounds_equal_uninterrupted_training(case: Case) -> None:
    """Those of both trainers."""
    data, model = learnable(EXAMPLES), seeded(case.model())
    bundle = bundle_of(
        model, case.schedule, mask=MaskPolicy.OWN, optimizer=case.optimizer, steps_per_round=STEPS, batch_size=BATCH
    )
    initial = weights_of(model)

    trainers = {kind: make_trainer(kind, bundle, examples=len(data), threads=1) for kind in TOLERANCE}
    ends = {kind: federate(trainer, bundle, initial, data) for kind, trainer in trainers.items()}
    weights, mask = train_uninterrupted(model, case, data)

    reached = case.schedule.sparsity_in_force(ROUNDS * STEPS)
    for kind, federated in ends.items():
        assert_close(federated.weights, weights, TOLERANCE[kind])
        for name, kept in mask.items():
            np.testing.assert_array_equal(federated.mask[name], kept, err_msg=f"{kind}: {name}")
        assert sparsity(federated.weights, bundle.task.table) == pytest.approx(reached, abs=0.01)
        assert mask_sparsity(federated.mask) == sparsity(federated.weights, bundle.task.table)


EXACT, KEY = parse_codec("mask | fp32"), Key(1, 0, "pi-1")


def federate(trainer: Trainer, bundle: Bundle, initial: Weights, data: Dataset) -> Checkpoint:
    """Rounds of one agent: every byte that the model and the updates would be on the wire, merged and pruned again."""
    task = bundle.task
    model = new_model(initial, task, "run", 0, Values.FP32, full_mask(task.table))
    slots = residual = None
    for number in range(ROUNDS):
        base, mask = decode_model(model.blob, task.table)
        trained = trainer.train(Work(base, mask, number * STEPS, slots, round_key(number)), data)
        learned = take_delta(base, trained, task.table)
        sent = prepare_update(learned, residual, task.table, EXACT, KEY, known_mask=None)
        slots, residual = trained.slots, sent.residual_if_accepted
        merged = merge(sent.blob, model.checkpoint, bundle, examples=len(data))
        model = new_model(merged.weights, task, "run", number + 1, Values.FP32, merged.mask)
    return model.checkpoint


def merge(blob: bytes, base: Checkpoint, bundle: Bundle, examples: int) -> AggregateResult:
    table = bundle.task.table
    aggregate = Aggregate(table, base.weights, known_mask=None)
    aggregate.add(decode_update(blob, table, None, EXACT, KEY), examples)
    return aggregate.result(base.exact)


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
        weight.name.partition(":")[0]: kept.numpy() != 0.0
        for layer in callback.prunable_layers
        for weight, kept, _ in layer.pruning_vars
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
