"""Federations whose network becomes smaller learn what those with masked units do, by every way of travelling."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from aggregator.server_optimizers import FedAdam, FedAvgM
from aggregator.settings import Aggregation
from benchmarks.without_network import RUN
from edge_agent.agent_state import Outcome
from edge_agent.trainers import slimmed_graph
from export.local_layers import BATCH_NORMALIZATION
from fedprune.graph.training import WrittenGraph, write_training_graph
from fedprune.network.description import Network
from fedprune.network.layers import Function
from fedprune.pruning.masks import apply_mask
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.task import forms
from fedprune.task.evaluation import Evaluation, LossScale
from fedprune.task.training import Adam
from tests.closeness import assert_close
from tests.shrinking import LAST_STEP, Shrinking, bundle_of

ROUNDS = LAST_STEP + 2
TOLERANCE = 1e-4
CHAINS = (
    "mask | fp32",
    "mask | feedback(2) | int8",
    "mask | clip(0.5) | feedback(2) | quantise(4)",
    "mask | feedback(2) | topk(0.1) | ternary | rice",
    "mask | feedback(100) | budget(40) | ternary | context",
    "mask | feedback(2) | threshold(0.001) | fp16 | bitmap",
    "mask | feedback(2) | random_mask(0.5) | int8",
    "mask | subsample(0.5) | rotate | quantise(8)",
    "mask | feedback(2) | low_rank(2) | fp16",
)


def masked_and_slimmed(path: Path, **settings: Any) -> tuple[Shrinking, Shrinking]:
    made = [Shrinking(path / str(slim), bundle_of(slim=slim, **settings)) for slim in (False, True)]
    for each in made:
        each.run(ROUNDS)
    return made[0], made[1]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": Adam(0.01), "state": "keep"},
        {"weights": ConstantSparsity(target_sparsity=0.6, begin_step=6, frequency=3)},
    ],
    ids=["units", "units, Adam's state kept", "units and weights"],
)
def test_it_learns_what_it_learns_with_its_units_masked(settings: dict[str, Any], tmp_path: Path) -> None:
    masked, slimmed = masked_and_slimmed(tmp_path, **settings)

    form = slimmed.form
    found, expected = slimmed.model.checkpoint, masked.model.checkpoint
    assert_close(found.exact, form.cut_all(expected.exact), TOLERANCE)
    for name, kept in form.cut_all(expected.mask).items():
        np.testing.assert_array_equal(found.mask[name], kept)
    assert form.task.table.parameters < 0.4 * slimmed.bundle.task.table.parameters
    assert form.sparsity(found.weights) == pytest.approx(masked.form.sparsity(expected.weights))


def test_models_and_updates_take_fewer_bytes_from_then_on(tmp_path: Path) -> None:
    masked, slimmed = masked_and_slimmed(tmp_path)

    assert slimmed.sent[0] > 2 * slimmed.sent[-1]
    assert slimmed.updates[0] > 2 * slimmed.updates[-1]
    assert slimmed.sent[-1] < masked.sent[-1]


@pytest.mark.parametrize("codec", CHAINS)
@pytest.mark.parametrize(
    "model_codec",
    ["fp16", "fp16 + mask | topk(0.2) | ternary | rice", "fp16 + mask | topk(0.2) | ternary | history"],
    ids=["whole", "deltas", "deltas by history"],
)
def test_agents_go_on_over_a_slimming_round_by_every_chain(codec: str, model_codec: str, tmp_path: Path) -> None:
    """One is away while the network becomes smaller, one has owed something since; both are started again."""
    federation = Shrinking(tmp_path, bundle_of(), codec=codec, model_codec=model_codec, agents=3)
    federation.run(1)
    federation.round(away=["agent-2"], outcome=Outcome.LATE)
    federation.start_agent("agent-0")
    federation.run(LAST_STEP - 1, away=["agent-2"])
    federation.start_gateway()
    federation.run(2)

    table = federation.form.task.table
    residual = federation.store_of("agent-2").residual(RUN, federation.version)
    assert table.parameters < federation.bundle.task.table.parameters
    assert residual is None or {name: array.shape for name, array in residual.items()} == {
        spec.name: spec.shape for spec in table if spec.name in residual
    }
    assert any((over or 0) > 1 for over in federation.led_over) == ("+" in model_codec)


def test_the_bytes_of_a_model_are_the_same_whether_forms_are_remembered_or_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for most in (2, 0):
        monkeypatch.setattr(forms, "_REMEMBERED", most)
        federation = Shrinking(
            tmp_path / str(most), bundle_of(), model_codec="fp16 + mask | topk(0.2) | ternary | history"
        )
        blobs = []
        for _ in range(ROUNDS):
            federation.round()
            blobs.append((federation.model.blob, federation.model.delta))
        made.append(blobs)

    assert made[0] == made[1]


@pytest.mark.parametrize("optimizer", [FedAvgM(), FedAdam()])
def test_a_server_optimizers_state_follows(optimizer: FedAvgM | FedAdam, tmp_path: Path) -> None:
    masked, slimmed = (
        Shrinking(tmp_path / str(slim), bundle_of(slim=slim), aggregation=Aggregation(optimizer=optimizer))
        for slim in (False, True)
    )
    for federation in (masked, slimmed):
        federation.run(ROUNDS)

    assert_close(slimmed.model.checkpoint.exact, slimmed.form.cut_all(masked.model.checkpoint.exact), TOLERANCE)
    for key, array in slimmed.model.checkpoint.optimizer_state.items():
        assert array.shape == slimmed.model.checkpoint.exact[key.partition("/")[2]].shape


def test_layers_of_the_devices_own_lose_units_too(tmp_path: Path) -> None:
    federation = Shrinking(tmp_path, bundle_of(local=[BATCH_NORMALIZATION]))
    federation.run(ROUNDS)

    own = federation.store_of("agent-0").local(RUN)
    assert own is not None
    assert {array.shape for array in own.values()} == {(4,)}
    assert any((array != federation.model.checkpoint.weights[name]).any() for name, array in own.items())


def test_frozen_layers_keep_their_units(tmp_path: Path) -> None:
    federation = Shrinking(tmp_path, bundle_of(frozen=["conv/kernel"]))
    federation.run(ROUNDS)

    shapes = {spec.name: spec.shape for spec in federation.form.task.table}
    assert shapes["conv/kernel"] == (3, 3, 1, 8)
    assert shapes["dense/kernel"] == (128, 6)


def test_a_device_that_keeps_the_activations_of_a_frozen_base_trains_a_smaller_head(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = ["conv/kernel", "g", "beta", "m", "v"]
    masked, slimmed = masked_and_slimmed(tmp_path, frozen=base)

    assert slimmed.bundle.head is not None
    assert not caplog.text
    shapes = {spec.name: spec.shape for spec in slimmed.form.task.table}
    assert (shapes["conv/kernel"], shapes["dense/kernel"]) == ((3, 3, 1, 8), (128, 6))
    assert_close(slimmed.model.checkpoint.exact, slimmed.form.cut_all(masked.model.checkpoint.exact), TOLERANCE)


def test_the_network_becomes_smaller_though_a_merge_is_not_kept(tmp_path: Path) -> None:
    losses = iter([1.0, 1.0, 1e6, *[1.0] * 9])
    federation = Shrinking(
        tmp_path, bundle_of(), evaluate=lambda *_: Evaluation(1, next(losses), {}), scale=LossScale(1.0, math.inf)
    )
    federation.run(2)
    before = federation.model.checkpoint
    assert not federation.round().kept

    assert federation.form.task.table.parameters < federation.bundle.forms.of(before.units).task.table.parameters
    assert_close(
        federation.model.checkpoint.exact,
        apply_mask(
            federation.form.carry_all(federation.bundle.forms.of(before.units), before.exact),
            federation.model.checkpoint.mask,
        ),
        0.0,
    )
    federation.run(2)


def test_a_model_that_is_gone_back_to_loses_the_units_that_are_due_by_then(tmp_path: Path) -> None:
    """Agents find a round later that a merge exploded: the version after is made of that before it, and of its form."""
    losses = iter([1.0, 1.0, 1e6, *[1.0] * 9])
    federation = Shrinking(tmp_path, bundle_of(), agents_losses=losses, scale=LossScale(1.0, math.inf))
    federation.run(1)
    before = federation.model.checkpoint
    assert federation.round().kept
    smaller = federation.form
    assert not federation.round().kept

    form = federation.form
    assert not smaller.is_whole
    assert form.task.table.parameters <= smaller.task.table.parameters
    kept = form.carry_all(federation.bundle.forms.of(before.units), before.exact)
    assert_close(federation.model.checkpoint.exact, apply_mask(kept, federation.model.checkpoint.mask), 0.0)
    federation.run(2)


def test_a_device_whose_smaller_graph_is_wrong_keeps_the_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    masked, slimmed = (
        Shrinking(tmp_path / "masked", bundle_of(slim=False)),
        Shrinking(tmp_path / "slimmed", bundle_of()),
    )

    def wrong(network: Network, *others: Any) -> WrittenGraph:
        layers = [
            msgspec.structs.replace(layer, function=Function.TANH) if layer.name == "again" else layer
            for layer in network.layers
        ]
        return write_training_graph(msgspec.structs.replace(network, layers=tuple(layers)), *others)

    monkeypatch.setattr(slimmed_graph, "write_training_graph", wrong)
    for federation in (masked, slimmed):
        federation.run(ROUNDS)

    assert "the network stays as large as it was on this device" in caplog.text
    assert_close(slimmed.model.checkpoint.exact, slimmed.form.cut_all(masked.model.checkpoint.exact), TOLERANCE)


def test_a_comparison_that_passed_is_not_made_again_when_the_agent_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    federation = Shrinking(tmp_path, bundle_of(), agents=1)
    federation.run(ROUNDS)
    assert not caplog.text
    federation.start_agent("agent-0")

    monkeypatch.setattr(slimmed_graph, "compare_graphs", lambda *_: pytest.fail("it was compared again"))

    federation.run(1)
