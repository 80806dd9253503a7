"""Scenarios of the federations' benchmark with real parts, far smaller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.federations import sentences, utterances
from benchmarks.federations.run import site
from benchmarks.federations.scenarios import PAIRED, TASKS, Prepared
from benchmarks.federations.windows import people
from fedprune.codecs import DEFAULT_CODEC
from fedprune.data.npz import save_npz

EVERYBODY = ("agent-0", "agent-1", "held-out")


def test_a_scenario_is_built_and_federated_and_its_accuracy_told_for_each_round() -> None:
    def prepare(seed: int, path: Path) -> Prepared:
        for name, data in zip(EVERYBODY, people(seed, 0, 3, 64), strict=True):
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


def _texts(seed: int, path: Path) -> Prepared:
    path.mkdir()
    for place, name in enumerate(EVERYBODY):
        sentences.write_sentences(path / f"{name}.jsonl", sentences.written(seed + place, 240))
    return Prepared("sentences", 'file = "benchmarks.federations.networks:gru_reader"', sentences.DATA, ".jsonl")


def _recordings(seed: int, path: Path) -> Prepared:
    for place, name in enumerate(EVERYBODY):
        utterances.write_utterances(path / name, *utterances.uttered(seed + place, 240))
    return Prepared("utterances", 'file = "benchmarks.federations.networks:keyword_cnn"', utterances.DATA, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "prepare", "chance"),
    [
        pytest.param("text", _texts, 1 / len(sentences.TOPICS), id="text"),
        pytest.param("speech", _recordings, 1 / len(utterances.WORDS), id="speech"),
    ],
)
def test_devices_learn_from_texts_and_recordings_as_they_have_them(
    task: str, prepare: Callable[[int, Path], Prepared], chance: float
) -> None:
    """From files to a pruned model that tells twice as much as chance does; how well the task's own size is learned,
    and by either trainer, the benchmark says."""
    scenario = replace(TASKS[task], prepare=prepare, agents=2, rounds=5)
    with site(scenario, 1, sparsity=0.8) as place:
        run = place.federate("litert", DEFAULT_CODEC)
    assert max(run.accuracies) > 2 * chance
    assert run.sparsity == pytest.approx(0.8, abs=0.005)
