"""What the aggregator refuses before it connects to anybody."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from aggregator.presets import Preset
from aggregator.process import run_aggregator
from aggregator.settings import Codec, FederationSettings, Rounds
from fedprune.errors import ConfigurationError
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.scores import Score
from fedprune.task.bundle import write_bundle
from tests.simulation.world import make_bundle


def test_a_run_whose_steps_cannot_be_counted_is_refused_before_any_agent_is_told(tmp_path: Path) -> None:
    """The clock of the schedule counts below 2^31; an agent would drop every assignment beyond."""
    bundle = make_bundle(MaskPolicy.SHARED)
    training = msgspec.structs.replace(bundle.task.training, steps_per_round=3000)
    task = msgspec.structs.replace(bundle.task, training=training)
    (tmp_path / "long.fedtask").write_bytes(write_bundle(task, network=bundle.network, weights=None))
    settings = FederationSettings("long.fedtask", "held-out.npz", "run", rounds=Rounds(count=1_000_000))

    with pytest.raises(ConfigurationError, match=r"3000000000 steps; at most 2147483647 can be counted: lower rounds"):
        run_aggregator(settings, tmp_path, lambda _: None)
    assert not (tmp_path / "run").exists()


def test_scores_that_the_gateway_alone_can_compute_are_refused_where_masks_do_not_travel(tmp_path: Path) -> None:
    bundle = make_bundle(MaskPolicy.SHARED)
    pruning = msgspec.structs.replace(bundle.task.pruning, score=Score.SENSITIVITY)
    task = msgspec.structs.replace(bundle.task, pruning=pruning)
    (tmp_path / "scored.fedtask").write_bytes(write_bundle(task, network=bundle.network, weights=None))
    settings = FederationSettings("scored.fedtask", "held-out.npz", "run", codec=Codec(preset=Preset.FRUGAL))

    with pytest.raises(ConfigurationError, match=r'need a task whose pruning\.score is "magnitude"'):
        run_aggregator(settings, tmp_path, lambda _: None)
