"""What the aggregator refuses before it connects to anybody."""

from __future__ import annotations

import queue
from pathlib import Path

import msgspec
import pytest

from aggregator import process
from aggregator.presets import Preset
from aggregator.process import Withdrawn, run_aggregator
from aggregator.settings import Codec, FederationSettings, Rounds
from fedprune.errors import ConfigurationError, DataError
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.regrowth import Regrowth
from fedprune.pruning.scores import Score
from fedprune.task.bundle import Bundle, write_bundle
from fedprune.wire.link import LinkUp
from fedprune.wire.topics import Topics
from tests.recorder import Recorder
from tests.regressions import regression_bundle
from tests.simulation.stand_ins import make_bundle


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


@pytest.mark.parametrize(("until", "is_told"), [(8, True), (4, False)])
def test_a_run_whose_last_model_would_have_weights_that_nobody_trained_is_told_so_at_its_start(
    until: int, is_told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = make_bundle(MaskPolicy.SHARED, regrowth=Regrowth(fraction=0.5, every_rounds=2, until_round=until))
    (tmp_path / "task.fedtask").write_bytes(bundle.blob)
    settings = FederationSettings("task.fedtask", "run", "missing.npz", rounds=Rounds(count=4))

    with pytest.raises(DataError):
        run_aggregator(settings, tmp_path, lambda _: None)
    assert ("the last of 4 rounds exchanges 25 % of the weights" in caplog.text) is is_told


@pytest.mark.parametrize("bundle", [make_bundle(MaskPolicy.SHARED), regression_bundle()], ids=["rounds", "gathering"])
def test_a_federation_that_is_to_rest_leaves_no_manifest_behind(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while it gathers statistics: nobody is to wait for an answer."""
    link = _Link()
    monkeypatch.setattr(process, "MqttLink", lambda *_: link)
    (tmp_path / "task.fedtask").write_bytes(bundle.blob)
    events: queue.SimpleQueue[object] = queue.SimpleQueue()
    events.put(LinkUp())
    events.put(Withdrawn())

    with pytest.raises(Withdrawn):
        run_aggregator(FederationSettings("task.fedtask", "run"), tmp_path, lambda _: None, events)
    *_, first, last = (sent for sent in link.published if sent.topic == Topics("fedprune").round)
    assert first.payload
    assert (last.payload, last.retained) == (b"", True)


class _Link(Recorder):
    def __enter__(self) -> _Link:
        return self

    def __exit__(self, *_: object) -> None: ...

    def drain(self) -> None: ...
