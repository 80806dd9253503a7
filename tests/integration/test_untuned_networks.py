"""Networks that nobody tuned for, from a tf_keras file through `task build` to both trainers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from keras_bundles import learnable

from edge_agent.trainers import Work
from edge_agent.trainers.keras import KerasTrainer
from edge_agent.trainers.litert import LiteRTTrainer
from export.build import build_task
from export.settings import ModelSettings, PolynomialSettings, PruningSettings, TaskSettings
from fedprune.data import Dataset
from fedprune.keras.stack import keras
from fedprune.model.randomness import Keyed
from fedprune.pruning.masks import Allocation, full_mask
from fedprune.pruning.policy import MaskPolicy
from fedprune.task.bundle import Bundle, read_bundle
from fedprune.task.training import Sgd, Training

L = keras.layers


def series() -> Any:
    """A 1-D CNN over windows of 128 samples of 6 sensors."""
    return keras.Sequential(
        [
            L.Input((128, 6)),
            L.Conv1D(13, 5, strides=2, padding="same", activation="relu"),
            L.MaxPooling1D(),
            L.Conv1D(19, 3, activation="relu"),
            L.BatchNormalization(),
            L.SeparableConv1D(11, 3, padding="same", activation="relu"),
            L.GlobalMaxPooling1D(),
            L.Dense(5),
        ]
    )


def separable() -> Any:
    """Depthwise-separable blocks on 96x96x3, the first half of MobileNetV1's."""
    return _mobile((8, 2), (16, 2), (32, 2), (32, 2))


def mobilenet() -> Any:
    """All of MobileNetV1, at width 1/8."""
    return _mobile((8, 1), (16, 2), (16, 1), (32, 2), (32, 1), (64, 2), *[(64, 1)] * 5, (128, 2), (128, 1))


def _mobile(*blocks: tuple[int, int]) -> Any:
    x = L.Input((96, 96, 3))
    y = _normalised(L.Conv2D(4, 3, strides=2, padding="same", use_bias=False)(x))
    for filters, strides in blocks:
        y = _normalised(L.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(y))
        y = _normalised(L.Conv2D(filters, 1, use_bias=False)(y))
    return keras.Model(x, L.Dense(5)(L.GlobalAveragePooling2D()(y)))


def residual() -> Any:
    """Residual blocks with batch normalisation, one of them with a projection, and odd numbers of channels."""
    x = L.Input((21, 17, 3))
    y = _normalised(L.Conv2D(7, 3, use_bias=False)(x))
    for filters, strides in ((7, 1), (13, 2)):
        z = _normalised(L.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(y))
        z = L.BatchNormalization()(L.Conv2D(filters, 3, padding="same", use_bias=False)(z))
        y = y if strides == 1 else L.BatchNormalization()(L.Conv2D(filters, 1, strides=strides, use_bias=False)(y))
        y = L.ReLU()(L.Add()([y, z]))
    return keras.Model(x, L.Dense(5, "softmax")(L.Flatten()(L.AveragePooling2D((3, 2), padding="same")(y))))


def odd() -> Any:
    """Odd channel counts, kernels, strides and windows."""
    return keras.Sequential(
        [
            L.Input((23, 19, 1)),
            L.Conv2D(3, (5, 3), strides=2, activation="relu"),
            L.MaxPooling2D(3, strides=2, padding="same"),
            L.DepthwiseConv2D(3, depth_multiplier=3, activation="relu6"),
            L.Conv2D(5, 2, strides=(1, 2), padding="same", activation="tanh"),
            L.Flatten(),
            L.Dense(11, "relu", kernel_regularizer="l2"),
            L.Dense(5),
        ]
    )


def _normalised(x: Any) -> Any:
    return L.ReLU(6.0)(L.BatchNormalization()(x))


NETWORKS = [series, residual, odd, pytest.param(separable, marks=pytest.mark.slow)]
STEPS = 8


def built(build: Callable[[], Any], directory: Path, mask: MaskPolicy, batch_size: int = 8) -> Bundle:
    """What a workstation makes of the network, saved as a file."""
    keras.backend.clear_session()  # initial weights are drawn by the names of layers, which count all those made before
    model = build()
    model.save(directory / "model.keras")
    schedule = PolynomialSettings(begin_step=1, end_step=7, frequency=3, initial_sparsity=0.2, target_sparsity=0.7)
    task = TaskSettings(
        name="untuned",
        model=ModelSettings(file="model.keras", initial="seed", seed=3),
        training=Training(STEPS, batch_size, Sgd(0.01, 0.9)),
        pruning=PruningSettings(schedule, mask, Allocation.UNIFORM),
    )
    return read_bundle(build_task(task, directory))


def assert_trained_alike(bundle: Bundle, data: Dataset) -> None:
    def work() -> Work:
        return Work(bundle.initial_weights(), full_mask(bundle.task.table), 0, None, Keyed(2))

    theirs = KerasTrainer(bundle, threads=1).train(work(), data)
    ours = LiteRTTrainer(bundle, examples=len(data), threads=1).train(work(), data)

    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    for name, start in bundle.initial_weights().items():
        assert not np.array_equal(theirs.weights[name], start), f"{name} was trained"
        error, norm = np.linalg.norm(ours.weights[name] - theirs.weights[name]), np.linalg.norm(theirs.weights[name])
        assert error <= max(1e-5 * norm, 1e-6), f"{name}: {error:.2g} of {norm:.2g}"
    for name, kept in theirs.mask.items():
        np.testing.assert_array_equal(ours.mask[name], kept, err_msg=name)


@pytest.mark.parametrize("build", NETWORKS)
def test_a_round_equals_the_keras_trainers(build: Callable[[], Any], tmp_path: Path) -> None:
    shared = built(build, tmp_path, MaskPolicy.SHARED)
    data = learnable(30, shape=shared.network.inputs[0], classes=shared.task.outputs[0].shape[-1])
    for policy in MaskPolicy:  # which no proof asks for
        pruning = msgspec.structs.replace(shared.task.pruning, mask=policy)
        assert_trained_alike(replace(shared, task=msgspec.structs.replace(shared.task, pruning=pruning)), data)


@pytest.mark.parametrize("build", [series, odd, pytest.param(residual, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("batch_size", "examples"), [(1, 5), (4, 1)])
def test_batches_and_data_of_one_example(
    build: Callable[[], Any], batch_size: int, examples: int, tmp_path: Path
) -> None:
    bundle = built(build, tmp_path, MaskPolicy.SHARED, batch_size)
    data = learnable(examples, shape=bundle.network.inputs[0], classes=bundle.task.outputs[0].shape[-1])
    assert_trained_alike(bundle, data)


@pytest.mark.slow
def test_a_deep_network_is_proven_and_trains(tmp_path: Path) -> None:
    """Rounding errors grow from layer to layer: after a few steps tf_keras in float32 has left tf_keras in float64 by
    more than 1e-5, and the litert trainer both. What is proven is that at each step it is as close as tf_keras."""
    bundle = built(mobilenet, tmp_path, MaskPolicy.SHARED)
    data = learnable(30, shape=bundle.network.inputs[0], classes=bundle.task.outputs[0].shape[-1])

    trainer, first = LiteRTTrainer(bundle, examples=len(data), threads=1), bundle.initial_weights()
    trained = trainer.train(Work(first, full_mask(bundle.task.table), 0, None, Keyed(2)), data)
    again = trainer.train(Work(trained.weights, trained.mask, 0, None, Keyed(2)), data)

    assert again.loss < trained.loss
