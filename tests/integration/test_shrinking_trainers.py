"""Both trainers go on when the network becomes smaller, and export what is left without an edit."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.trainers.slimming import MOST_DRAWS, SlimmingTrainer
from export.build import build_task
from export.exporting import export_model
from export.report import Format
from export.settings import (
    ModelSettings,
    OneShotSettings,
    PolynomialSettings,
    PruningSettings,
    TaskSettings,
    UnitSettings,
)
from export.workbench import Workbench
from fedprune.keras.stack import keras
from fedprune.network.layers import BatchNormalization, Dropout
from fedprune.task.bundle import read_bundle
from fedprune.task.training import Adam, Sgd, Training
from tests.closeness import assert_close
from tests.described import chain_of
from tests.shrinking import BATCH, CLASSES, LAST_STEP, NETWORK, STEPS, Shrinking, bundle_of, examples_of

ROUNDS = LAST_STEP + 1
TOLERANCE = 5e-4
"""Of a network with BatchNormalization, over steps of both trainers: see `test_litert_trainer`."""


@pytest.mark.parametrize("settings", [{}, {"optimizer": Adam(0.002), "state": "keep"}], ids=["SGD", "Adam, kept"])
def test_the_keras_trainer_learns_the_smaller_network_as_the_light_one_does(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    light, heavy = (
        Shrinking(tmp_path / choice, bundle_of(**settings), choice=choice, agents=1) for choice in ("litert", "keras")
    )
    for federation in (light, heavy):
        federation.run(ROUNDS)

    assert not caplog.text
    assert heavy.form.name == light.form.name
    assert_close(heavy.model.checkpoint.exact, light.model.checkpoint.exact, TOLERANCE)


def test_an_agent_may_change_its_trainer_when_the_network_has_become_smaller(tmp_path: Path) -> None:
    federation = Shrinking(tmp_path, bundle_of(optimizer=Adam(0.002), state="keep"), agents=1)
    federation.run(ROUNDS - 1)
    federation.choice = "keras"
    federation.start_agent("agent-0")
    federation.run(1)

    assert all(np.isfinite(array).all() for array in federation.model.checkpoint.weights.values())


def test_random_layers_are_no_reason_to_keep_the_whole_network(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layers = [layer for layer in NETWORK.layers if not isinstance(layer, BatchNormalization)]
    network = chain_of((6, 6, 1), *layers[:-1], Dropout(name="drop", rate=0.5, whole_channels=False), layers[-1])
    for choice in ("litert", "keras"):
        federation = Shrinking(tmp_path / choice, bundle_of(network=network), agents=1, choice=choice)
        federation.run(ROUNDS)

        assert federation.form.task.table.parameters < 0.4 * federation.bundle.task.table.parameters
    assert not caplog.text


def test_the_keras_trainer_masks_units_where_the_smaller_model_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from edge_agent.trainers.keras import KerasTrainer

    right, draws = KerasTrainer._differentiate, []

    def wrong(trainer: KerasTrainer, *arguments: Any) -> Any:
        found = right(trainer, *arguments)
        draws.append(trainer)
        return found if len(draws) % 2 else {name: array * np.float32(1.001) for name, array in found.items()}

    monkeypatch.setattr(KerasTrainer, "_differentiate", wrong)
    federation = Shrinking(tmp_path, bundle_of(), choice="keras", agents=1)
    federation.run(LAST_STEP)

    assert "the network stays as large as it was on this device" in caplog.text
    assert len(draws) % (2 * MOST_DRAWS) == 0
    assert isinstance(federation.trainer_of("agent-0"), SlimmingTrainer)


def test_heads_of_attention_go_while_the_federation_runs_on_both_trainers(tmp_path: Path) -> None:
    """From a model file to exports: the build makes the kernels of attention prunable."""
    keras.utils.set_random_seed(1)
    x = keras.layers.Input((6, 6, 1))
    y = keras.layers.Reshape((6, 6))(x)
    y = keras.layers.GlobalAveragePooling1D()(keras.layers.MultiHeadAttention(4, 3)(y, y))
    keras.Model(x, keras.layers.Dense(CLASSES)(y)).save(tmp_path / "model.keras")
    half = PolynomialSettings(initial_sparsity=0.0, target_sparsity=0.5, begin_round=1, end_round=LAST_STEP)
    settings = TaskSettings(
        name="heads",
        model=ModelSettings(file="model.keras"),
        training=Training(STEPS, BATCH, Sgd(0.05, 0.9)),
        pruning=PruningSettings(OneShotSettings(target_sparsity=0.0, begin_round=0), units=UnitSettings(half)),
    )
    bundle = read_bundle(build_task(settings, tmp_path))
    light, heavy = (Shrinking(tmp_path / choice, bundle, choice=choice, agents=1) for choice in ("litert", "keras"))
    for federation in (light, heavy):
        federation.run(ROUNDS)

    assert heavy.form.name == light.form.name
    assert_close(heavy.model.checkpoint.exact, light.model.checkpoint.exact, TOLERANCE)
    heads = {spec.shape[1] for spec in light.form.task.table if spec.name.endswith(("query/kernel", "value/kernel"))}
    assert heads == {2}
    report = export_model(
        bundle, light.model.checkpoint, examples_of(0), tmp_path, [Format.FP32], lambda _: None,
        open_converter=lambda job: nullcontext(Workbench(job)),
    )  # fmt: skip
    assert report.parameters == light.form.task.table.parameters < bundle.task.table.parameters
    assert report.exports[0].sparsity.overall is not None
