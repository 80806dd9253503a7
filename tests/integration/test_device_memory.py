"""A device's rounds as the benchmark of its memory makes them, with a small model: nothing large outlives a round."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from benchmarks import device_memory
from benchmarks.large_model import INPUTS, OUTPUTS
from edge_agent.trainers import Trained, Work
from edge_agent.trainers.litert import LiteRTTrainer
from fedprune.data import Dataset
from fedprune.runtime.training_graph import TrainingGraph


@pytest.mark.parametrize("optimizer", ["SGD with momentum", "Adam"])
def test_no_training_graph_is_held_between_rounds(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(self: LiteRTTrainer, work: Work, data: Dataset) -> Trained:
        trained = train_as_ever(self, work, data)
        graphs.append(sum(isinstance(thing, TrainingGraph) for thing in gc.get_objects()))
        owners.extend(array.flags.owndata for array in trained.weights.values())
        return trained

    graphs: list[int] = []
    owners: list[bool] = []
    train_as_ever = LiteRTTrainer.train
    monkeypatch.setattr(LiteRTTrainer, "train", train)
    monkeypatch.setattr(device_memory, "_SIZES", (INPUTS, 20, OUTPUTS))
    monkeypatch.setattr(device_memory, "_STEPS", 2)

    device_memory._prepare(optimizer, str(tmp_path))
    measured = device_memory._measure(optimizer, str(tmp_path))

    assert [round_.sparsity for round_ in measured.rounds] == [0.0, 0.8, 0.8]
    assert all(0.0 < round_.training_seconds < round_.seconds for round_ in measured.rounds)
    assert graphs == [0, 0, 0]
    assert all(owners)
