"""Logit adjustment against its definition in Keras, for both trainers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from keras_bundles import CLASSES, bundle_of, convolutional, keras_optimizer, learnable, seeded, weights_of

from edge_agent.logit_adjustment import adjusted
from edge_agent.trainers import Work
from edge_agent.trainers.batches import draw_batches
from edge_agent.trainers.choice import make_trainer
from fedprune.data import Dataset
from fedprune.keras.stack import keras, tf
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array
from fedprune.pruning.masks import full_mask
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.task.training import Sgd
from tests.closeness import assert_close

STEPS, BATCH, TAU, SGD = 18, 16, 0.7, Sgd(0.05, 0.9)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("trainer", ["keras", "litert"])
def test_what_is_learned_is_what_the_loss_of_adjusted_logits_teaches(trainer: str, smoothing: float) -> None:
    """Of the class that is rarest on the device there are two examples. Targets are smoothed by what a model answers
    whose logits are all 0 before they are adjusted."""
    model, data = seeded(convolutional()), skewed()
    schedule = ConstantSparsity(begin_step=1, frequency=2, target_sparsity=0.0)
    bundle = bundle_of(
        model,
        schedule,
        mask=MaskPolicy.SHARED,
        optimizer=SGD,
        steps_per_round=STEPS,
        logit_adjustment=TAU,
        label_smoothing=smoothing,
    )
    start = weights_of(model)

    begun = adjusted(start, bundle, data)
    weights = {name: array.copy() for name, array in begun.weights.items()}
    work = Work(weights, full_mask(bundle.task.table), 0, None, Keyed(5), spread=begun.spread)
    trained = make_trainer(trainer, bundle, examples=len(data), threads=1).train(work, data)
    expected, losses = train_adjusted(model, data, draw_batches(Keyed(5), len(data), STEPS, BATCH), smoothing)

    found = {name: start[name] + (array - begun.weights[name]) for name, array in trained.weights.items()}
    assert_close(found, expected, 1e-5)
    assert trained.loss == pytest.approx(np.mean(losses), abs=1e-5)


def skewed() -> Dataset:
    data = learnable(60)
    kept = np.flatnonzero((data.y != 0) | (np.cumsum(data.y == 0) <= 2))
    return Dataset(data.x[kept], data.y[kept])


def train_adjusted(
    model: Any, data: Dataset, batches: np.ndarray, smoothing: float
) -> tuple[dict[str, Array], list[float]]:
    counts = np.bincount(data.y, minlength=CLASSES) + 1
    prior = tf.constant(TAU * np.log(counts / counts.sum()), tf.float32)
    steps, losses = keras_optimizer(SGD), []
    crossentropy = keras.losses.CategoricalCrossentropy(from_logits=True)
    spread = smoothing * tf.nn.softmax(prior)
    for batch in batches:
        with tf.GradientTape() as tape:
            targets = (1 - smoothing) * tf.one_hot(data.y[batch], CLASSES) + spread
            loss = crossentropy(targets, model(data.x[batch], training=True) + prior)
        steps.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )
        losses.append(float(loss))
    return weights_of(model), losses
