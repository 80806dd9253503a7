"""A model whose kernels carry the L1 penalty that tutorials print, 0.1: it trains, and a threshold prunes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from keras_bundles import learnable

from edge_agent.trainers import Work
from edge_agent.trainers.litert import LiteRTTrainer
from export.build import build_task
from export.settings import ConstantSettings, ModelSettings, PruningSettings, TaskSettings
from fedprune.keras.stack import keras
from fedprune.model.randomness import Keyed
from fedprune.pruning.masks import full_mask, mask_sparsity
from fedprune.task.bundle import read_bundle
from fedprune.task.training import Sgd, Training
from fedprune.task.versions import mask_of_version

_RATE, _PENALTY, _STEPS = 0.01, 0.1, 300


def test_a_penalty_of_a_tenth_draws_nearly_all_weights_to_zero_and_a_threshold_prunes_them(tmp_path: Path) -> None:
    layers = keras.layers
    keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu", kernel_regularizer=keras.regularizers.l1(_PENALTY)),
            layers.Flatten(),
            layers.Dense(4, kernel_regularizer=keras.regularizers.l1(_PENALTY)),
        ]
    ).save(tmp_path / "model.keras")
    settings = TaskSettings(
        name="l1",
        model=ModelSettings(file="model.keras", initial="seed", seed=3),
        training=Training(_STEPS, 8, Sgd(_RATE, 0.0)),
        pruning=PruningSettings(ConstantSettings(target_sparsity=0.0, begin_round=1), threshold=2 * _RATE * _PENALTY),
    )
    bundle = read_bundle(build_task(settings, tmp_path))
    data = learnable(64, shape=(8, 8, 1), classes=4)
    work = Work(bundle.initial_weights(), full_mask(bundle.task.table), 0, None, Keyed(1))

    trained = LiteRTTrainer(bundle, examples=len(data), threads=1).train(work, data)

    kernels = np.concatenate([trained.weights[name].ravel() for name in work.mask])
    assert np.isfinite(trained.loss)
    assert np.quantile(np.abs(kernels), 0.8) < 2 * _RATE * _PENALTY  # a step of the penalty alone takes one of these
    assert mask_sparsity(mask_of_version(bundle.task, 1, trained.weights, work.mask)) > 0.8
