"""A scenario of the federations' benchmark with real parts, far smaller."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.federations.run import site
from benchmarks.federations.scenarios import PAIRED, Prepared
from benchmarks.federations.windows import people
from fedprune.codecs import DEFAULT_CODEC
from fedprune.data.npz import save_npz


def test_a_scenario_is_built_and_federated_and_its_accuracy_told_for_each_round() -> None:
    def prepare(seed: int, path: Path) -> Prepared:
        for name, data in zip(("agent-0", "agent-1", "held-out"), people(seed, 0, 3, 64), strict=True):
            save_npz(path / f"{name}.npz", data)
        return Prepared("three people", 'file = "benchmarks.federations.networks:window_cnn"')

    scenario = replace(PAIRED["window-cnn"], prepare=prepare, agents=2, steps_per_round=2, rounds=3)
    with site(scenario, 1, sparsity=0.8) as place:
        run = place.federate("litert", DEFAULT_CODEC)
        assert place.source == "three people"
    assert not place.path.exists()
    assert len(run.accuracies) == 3
    assert np.isfinite(run.accuracies).all()
    assert run.sparsity == pytest.approx(0.8, abs=0.005)
