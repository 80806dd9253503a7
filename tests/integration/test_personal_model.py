"""A device's own model: the file that an agent writes after a training answers as what it trained."""

from __future__ import annotations

import queue
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_bundles import bundle_of, convolutional, learnable, perceptron, seeded, varied

from aggregator.global_model import new_model
from edge_agent.local_round import LocalResult, LocalRound
from edge_agent.local_training import train_locally
from edge_agent.trainers.choice import TrainerChoice, make_trainer
from edge_agent.trainers.keras import KerasTrainer
from edge_agent.trainers.litert import LiteRTTrainer
from edge_agent.training_thread import TrainingThread
from fedprune.codecs import Values
from fedprune.data import Dataset
from fedprune.model.tensors import Array, Weights
from fedprune.pruning.masks import full_mask
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity
from fedprune.runtime.answers import answers_of
from fedprune.task.bundle import Bundle
from fedprune.wire.messages import WEIGHTS_DIGEST_BYTES, Assignment, Terms
from fedprune.wire.transfer import content_of
from tests.closeness import assert_close
from tests.patience import PATIENCE_S

_SCHEDULE = ConstantSparsity(begin_step=0, end_step=6, frequency=6, target_sparsity=0.5)


@pytest.mark.parametrize("trainer", ["keras", "litert"])
@pytest.mark.parametrize("network", [convolutional, varied])
def test_the_file_answers_as_tensorflow_with_the_weights_that_were_trained(
    network: Callable[[], Any], trainer: TrainerChoice, tmp_path: Path
) -> None:
    model = seeded(network())
    bundle = bundle_of(model, _SCHEDULE, mask=MaskPolicy.OWN)
    data = learnable(32, shape=model.input_shape[1:])
    trained: list[Weights] = []
    used = make_trainer(trainer, bundle, examples=32, threads=1)
    train_locally(_first_round(bundle), bundle, used, data, keep=lambda weights, _: trained.append(dict(weights)))

    found = _file_of_a_round(bundle, data, trainer, tmp_path)

    (expected,) = KerasTrainer(bundle, threads=1).answers(trained[0], [data.x[:5]])
    one_by_one = [answers_of(found, [data.x[place : place + 1]])[0] for place in range(5)]
    assert_close({"y": np.concatenate(one_by_one)}, {"y": expected}, 1e-3)
    assert np.mean(np.concatenate([array.ravel() for array in trained[0].values() if array.ndim > 1]) == 0) > 0.3


def test_a_file_that_answers_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def otherwise(*_: object) -> tuple[Array, ...]:
        return (np.ones((8, 4), np.float32),)

    bundle = bundle_of(seeded(perceptron()), _SCHEDULE, mask=MaskPolicy.OWN)
    before = _file_of_a_round(bundle, learnable(32), "litert", tmp_path)
    monkeypatch.setattr(LiteRTTrainer, "answers", otherwise)

    assert _file_of_a_round(bundle, learnable(32, seed=2), "litert", tmp_path) == before
    assert "own.tflite is not written: the runtime answers" in caplog.text


def test_a_place_that_cannot_be_written_costs_no_round(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "own.tflite").mkdir()
    _do_round(bundle_of(seeded(perceptron()), _SCHEDULE, mask=MaskPolicy.OWN), learnable(32), "litert", tmp_path)
    assert "own.tflite is not written" in caplog.text


def _file_of_a_round(bundle: Bundle, data: Dataset, trainer: TrainerChoice, directory: Path) -> bytes:
    return _do_round(bundle, data, trainer, directory).read_bytes()


def _do_round(bundle: Bundle, data: Dataset, trainer: TrainerChoice, directory: Path) -> Path:
    """As an agent does it, on its training thread."""
    delivered: queue.SimpleQueue[Any] = queue.SimpleQueue()
    path = directory / "own.tflite"
    thread = TrainingThread(lambda _: data, trainer, 1, None, delivered.put, path)
    thread.start(1, partial(_opened, bundle))
    assert isinstance(delivered.get(timeout=PATIENCE_S).result, LocalResult)
    return path


def _opened(bundle: Bundle) -> tuple[LocalRound, bytes]:
    return _first_round(bundle), bundle.blob


def _first_round(bundle: Bundle) -> LocalRound:
    first = new_model(bundle.initial_weights(), bundle.task, "run", 0, Values.FP32, full_mask(bundle.task.table))
    assignment = Assignment(
        run="run",
        incarnation=1,
        round=0,
        weights_digest=first.model.weights_digest[:WEIGHTS_DIGEST_BYTES],
        seconds_left=60,
        model=first.model.content,
        terms=Terms(task=content_of(bundle.blob), seed=1, clock_steps=10, codec="mask | fp32"),
    )
    return LocalRound("pi-1", assignment, first.blob, lambda: None, None, 0.0)
